package pipeline

import (
	"math/bits"

	"github.com/understudy-dr/understudy/pkg/block"
)

// notes is which blocks of a stretch were written: a bit for each, because the consumer
// notes every record while a proof runs, and a sorted set of random writes would cost
// it more and more.
type notes struct {
	within block.Extent // whole blocks
	bits   []uint64
}

func newNotes(within block.Extent) notes {
	within = within.Align(block.FineGranule)
	return notes{within, make([]uint64, (within.Len/block.FineGranule+63)/64)}
}

// add notes the blocks that e touches.
func (n *notes) add(e block.Extent) {
	e = e.Align(block.FineGranule).Intersect(n.within)
	for at := e.Off; at < e.End(); at += block.FineGranule {
		b := (at - n.within.Off) / block.FineGranule
		n.bits[b/64] |= 1 << (b % 64)
	}
}

// set is what was noted.
func (n *notes) set() *block.Set {
	s := block.NewSet()
	for i, w := range n.bits {
		for w != 0 {
			first := bits.TrailingZeros64(w)
			run := bits.TrailingZeros64(^(w >> first))
			s.Add(block.Extent{Off: n.within.Off + int64(i*64+first)*block.FineGranule, Len: int64(run) * block.FineGranule})
			w &^= (^uint64(0) >> (64 - run)) << first
		}
	}
	return s
}
