package resync

import "github.com/understudy-dr/understudy/pkg/block"

// split sends all of what is wanted of the chunk, told apart into data and zeros.
// Zeros travel as a zero extent: in a doubt range the replica may hold older data
// there, which must go. skipZeros is for the first copy of a disk only.
func (c *chunk) split(skipZeros bool) {
	for _, e := range c.want {
		for b := range blocks(e) {
			zero := block.IsZero(c.at(b))
			if !zero || !skipZeros {
				c.push(piece{b, zero})
			}
		}
	}
}

// push appends a piece, as part of the one before if they are one stretch.
func (c *chunk) push(p piece) {
	if n := len(c.send); n > 0 && c.send[n-1].End() == p.Off && c.send[n-1].zero == p.zero {
		c.send[n-1].Len += p.Len
		return
	}
	c.send = append(c.send, p)
}

// blocks yields e in pieces of FineGranule; e begins at a multiple of it.
func blocks(e block.Extent) func(yield func(block.Extent) bool) {
	return func(yield func(block.Extent) bool) {
		for off := e.Off; off < e.End(); off += block.FineGranule {
			if !yield(block.Extent{Off: off, Len: min(block.FineGranule, e.End()-off)}) {
				return
			}
		}
	}
}
