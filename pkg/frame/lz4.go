package frame

import (
	"encoding/binary"
	"math/bits"
)

// The LZ4 block format, written. Reading it is lz4's part, which does it in assembly;
// its compressor is plain Go with a table that a processor's first cache does not hold,
// and was 70% of what a copy costs the protected machine. Here the table is small,
// lengths below 15 take the short way, and a result that would be too large is given up
// as soon as it is.
const (
	lz4TableBits = 13
	lz4Window    = 1<<16 - 1 // a match is at most so far back
	lz4MinMatch  = 4
	// By the format the last bytes are literals, and no match begins close to the end.
	lz4LastLiterals = 5
	lz4LastMatch    = 12
	// After 1<<lz4SkipBits bytes without a match every second position is tried only, after
	// twice that every third: noise is passed over.
	lz4SkipBits = 6
	lz4Slack    = 32 // bytes behind the limit that short copies may touch
)

// lz4Table finds where four bytes were seen last.
type lz4Table [1 << lz4TableBits]uint32

// lz4Room is the memory that pack wants for a result of at most limit bytes.
func lz4Room(limit int) int { return limit + lz4Slack }

// pack compresses src into dst and returns the length of the result, or 0 if that is
// more than limit. len(dst) is at least lz4Room(limit).
func (t *lz4Table) pack(dst, src []byte, limit int) int {
	clear(t[:])
	o := lz4Writer{dst: dst, limit: limit}
	anchor, end := 0, len(src)-lz4LastMatch
	for at := 1; at < end; {
		here := binary.LittleEndian.Uint64(src[at:])
		slot := lz4Hash(here)
		ref := int(t[slot])
		t[slot] = uint32(at)
		if uint32(here) != binary.LittleEndian.Uint32(src[ref:]) || at-ref > lz4Window {
			at += 1 + (at-anchor)>>lz4SkipBits
			continue
		}
		off, from := at-ref, at
		for from > anchor && from > off && src[from-1] == src[from-off-1] {
			from--
		}
		at = lz4MatchEnd(src, at+lz4MinMatch, off)
		if !o.sequence(src, anchor, from, off, at-from-lz4MinMatch) {
			return 0
		}
		if anchor = at; at < end {
			t[lz4Hash(binary.LittleEndian.Uint64(src[at-2:]))] = uint32(at - 2)
		}
	}
	return o.literals(src[anchor:])
}

// lz4Hash is of five bytes: matches of four are seldom worth their three.
func lz4Hash(v uint64) uint64 { return v << 24 * 889523592379 >> (64 - lz4TableBits) }

// lz4MatchEnd is how far src from at on repeats what lies off bytes before it.
func lz4MatchEnd(src []byte, at, off int) int {
	end := len(src) - lz4LastLiterals
	for at+8 <= end {
		if d := binary.LittleEndian.Uint64(src[at:]) ^ binary.LittleEndian.Uint64(src[at-off:]); d != 0 {
			return at + bits.TrailingZeros64(d)>>3
		}
		at += 8
	}
	for at < end && src[at] == src[at-off] {
		at++
	}
	return at
}

type lz4Writer struct {
	dst   []byte
	n     int
	limit int
}

// sequence writes the literals src[from:to] and a match of extra+4 bytes. It reports
// whether there was room.
func (o *lz4Writer) sequence(src []byte, from, to, off, extra int) bool {
	lit := to - from
	if o.n+lit+lit/255+extra/255+8 > o.limit {
		return false
	}
	token := o.n
	o.n++
	if lit < 15 && from+16 <= len(src) {
		// Sixteen bytes are copied faster than as many as needed; what is too much is
		// overwritten next.
		le, d, s := binary.LittleEndian, o.dst[o.n:o.n+16], src[from:from+16]
		le.PutUint64(d, le.Uint64(s))
		le.PutUint64(d[8:], le.Uint64(s[8:]))
	} else {
		o.length(lit)
		copy(o.dst[o.n:], src[from:to])
	}
	o.n += lit
	binary.LittleEndian.PutUint16(o.dst[o.n:], uint16(off))
	o.n += 2
	o.length(extra)
	o.dst[token] = byte(min(lit, 15)<<4 | min(extra, 15))
	return true
}

// literals writes the end of the block and returns the length of all of it, or 0.
func (o *lz4Writer) literals(src []byte) int {
	if o.n+len(src)+len(src)/255+2 > o.limit {
		return 0
	}
	o.dst[o.n] = byte(min(len(src), 15) << 4)
	o.n++
	o.length(len(src))
	return o.n + copy(o.dst[o.n:], src)
}

// length writes what of a length its half of the token does not hold.
func (o *lz4Writer) length(n int) {
	if n -= 15; n < 0 {
		return
	}
	for ; n >= 255; n -= 255 {
		o.dst[o.n] = 255
		o.n++
	}
	o.dst[o.n] = byte(n)
	o.n++
}
