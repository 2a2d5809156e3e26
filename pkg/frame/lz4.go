package frame

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
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
	// By the format the last five bytes are literals, and no match begins in the last twelve;
	// here sixteen, so that sixteen may be read wherever a match is looked for.
	lz4LastLiterals = 5
	lz4LastMatch    = 16
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
	limit = min(limit, len(dst)-lz4Slack)
	to, from := rawOf(dst), rawOf(src)
	n, anchor := 0, 0 // bytes written; of src, up to where
	if len(src) > lz4LastMatch {
		clear(t[:])
	}
	for at, end := 1, len(src)-lz4LastMatch; at < end; {
		here := from.load64(at)
		slot := lz4Hash(here)
		ref := int(t[slot])
		t[slot] = uint32(at)
		if uint32(here) != from.load32(ref) || at-ref > lz4Window {
			at += 1 + (at-anchor)>>lz4SkipBits
			continue
		}
		off, begin := at-ref, at
		for begin > anchor && begin > off && from.load8(begin-1) == from.load8(begin-off-1) {
			begin--
		}
		at = from.matchEnd(at+lz4MinMatch, off, len(src)-lz4LastLiterals)
		lit, extra := begin-anchor, at-begin-lz4MinMatch
		if n+lit+lit/255+extra/255+8 > limit {
			return 0
		}
		if lit < 15 && extra < 15 {
			// Sixteen bytes are copied faster than as many as needed; what is too much is
			// overwritten next.
			to.store8(n, byte(lit<<4|extra))
			to.copy16(n+1, from, anchor)
			n += 3 + lit
		} else {
			n = to.sequence(n, from.bytes(anchor, lit), extra)
		}
		to.store16(n-2, uint16(off))
		if extra >= 15 {
			n = to.length(n, extra)
		}
		if anchor = at; at < end {
			t[lz4Hash(from.load64(at-2))] = uint32(at - 2)
		}
	}
	return to.last(n, src[anchor:], limit)
}

// lz4Hash is of five bytes: matches of four are seldom worth their three.
func lz4Hash(v uint64) uint64 { return v << 24 * 889523592379 >> (64 - lz4TableBits) }

// raw is memory without bounds: the checks that the compiler cannot see to be needless
// cost a third of the whole. What keeps pack within its memory: of src it reads up to
// sixteen bytes from a place before len(src)-lz4LastMatch on; of dst it writes no more
// than it has found room for below the limit, and sixteen bytes behind that at most.
type raw struct{ p unsafe.Pointer }

func rawOf(b []byte) raw { return raw{unsafe.Pointer(unsafe.SliceData(b))} }

func (r raw) bytes(at, n int) []byte { return unsafe.Slice((*byte)(unsafe.Add(r.p, at)), n) }
func (r raw) store8(at int, v byte)  { *(*byte)(unsafe.Add(r.p, at)) = v }
func (r raw) store16(at int, v uint16) {
	binary.LittleEndian.PutUint16((*[2]byte)(unsafe.Add(r.p, at))[:], v)
}

func (r raw) copy16(at int, src raw, from int) {
	*(*[16]byte)(unsafe.Add(r.p, at)) = *(*[16]byte)(unsafe.Add(src.p, from))
}

func (r raw) load8(at int) byte { return *(*byte)(unsafe.Add(r.p, at)) }
func (r raw) load32(at int) uint32 {
	return binary.LittleEndian.Uint32((*[4]byte)(unsafe.Add(r.p, at))[:])
}
func (r raw) load64(at int) uint64 {
	return binary.LittleEndian.Uint64((*[8]byte)(unsafe.Add(r.p, at))[:])
}

// matchEnd is how far the memory from at on, and before end, repeats what lies off bytes before it.
func (r raw) matchEnd(at, off, end int) int {
	for at+8 <= end {
		if d := r.load64(at) ^ r.load64(at-off); d != 0 {
			return at + bits.TrailingZeros64(d)>>3
		}
		at += 8
	}
	for at < end && r.load8(at) == r.load8(at-off) {
		at++
	}
	return at
}

// sequence writes, at n, a token, literals and the room for an offset. It returns where
// that ends; the length of the match, where the token does not hold it, comes there.
func (r raw) sequence(n int, literals []byte, extra int) int {
	r.store8(n, byte(min(len(literals), 15)<<4|min(extra, 15)))
	n = r.length(n+1, len(literals))
	return n + copy(r.bytes(n, len(literals)), literals) + 2
}

// last writes the end of the block and returns the length of all of it, or 0.
func (r raw) last(n int, literals []byte, limit int) int {
	if n+len(literals)+len(literals)/255+2 > limit {
		return 0
	}
	return r.sequence(n, literals, 0) - 2
}

// length writes what of a length its half of the token does not hold, and returns where
// that ends.
func (r raw) length(n, length int) int {
	if length -= 15; length < 0 {
		return n
	}
	for ; length >= 255; length -= 255 {
		r.store8(n, 255)
		n++
	}
	r.store8(n, byte(length))
	return n + 1
}
