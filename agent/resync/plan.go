package resync

import (
	"iter"

	"github.com/understudy-dr/understudy/pkg/block"
)

const (
	// chunkSize is the most that is read at once, and the grid on which reads are cut,
	// so that hash granules never straddle two chunks. Larger reads were not faster.
	chunkSize = 1 << 20
	// readThrough is the free stretch worth reading to save a request: what a disk
	// transfers in the time another request costs it.
	readThrough = 64 << 10
)

// chunk is one read, and what it is made for.
type chunk struct {
	span block.Extent   // what is read
	want []block.Extent // what of it matters, ascending
	data []byte         // span's bytes once read
	send []piece        // what of it must travel, ascending
	asks *question      // the hash method's request this chunk belongs to
	done chan error     // closed, or holding the one error, when send is known
}

// piece is a stretch that must travel, all data or all zeros.
type piece struct {
	block.Extent
	zero bool
}

// at is the chunk's data of e, which lies in its span.
func (c *chunk) at(e block.Extent) []byte {
	return c.data[e.Off-c.span.Off : e.End()-c.span.Off]
}

// coverage is what a pass over a disk may read and what of it it wants: both in
// whole blocks of FineGranule, want within may.
func coverage(t Target, free *block.Set) (want, may *block.Set) {
	disk := block.Extent{Len: t.Size}
	may = block.NewSet(disk)
	if t.Doubt != nil {
		may = block.NewSet()
		for e := range t.Doubt.All() {
			may.Add(e.Align(block.FineGranule).Intersect(disk))
		}
	}
	spare := block.NewSet()
	if free != nil {
		for e := range free.All() {
			spare.Add(inner(e, t.Size))
		}
	}
	return minus(may, spare), may
}

// minus is a without b, in one walk: a dirty map and a free-space map of a million
// extents each are nothing unusual.
func minus(a, b *block.Set) *block.Set {
	rest := block.NewSet()
	for e := range a.All() {
		at := e.Off
		for x := range b.Within(e) {
			rest.Add(block.Extent{Off: at, Len: x.Off - at})
			at = x.End()
		}
		rest.Add(block.Extent{Off: at, Len: e.End() - at})
	}
	return rest
}

// inner shrinks e to whole blocks: one that is free in part is used. The short block
// at the disk's end counts as whole.
func inner(e block.Extent, size int64) block.Extent {
	off := (e.Off + block.FineGranule - 1) &^ (block.FineGranule - 1)
	end := e.End()
	if end < size {
		end &^= block.FineGranule - 1
	}
	return block.Extent{Off: off, Len: end - off}
}

// chunks cuts want into reads, ascending, none crossing the chunk grid. Small gaps
// are read through where may allows it.
func chunks(want, may *block.Set) iter.Seq[*chunk] {
	return func(yield func(*chunk) bool) {
		var c *chunk
		for e := range want.All() {
			for !e.Empty() {
				cell := e.Off&^(chunkSize-1) + chunkSize
				part := e.Intersect(block.Extent{Off: e.Off, Len: cell - e.Off})
				e = block.Extent{Off: part.End(), Len: e.End() - part.End()}
				if c != nil && c.take(part, may) {
					continue
				}
				if c != nil && !yield(c) {
					return
				}
				c = &chunk{span: part, want: []block.Extent{part}, done: make(chan error, 1)}
			}
		}
		if c != nil {
			yield(c)
		}
	}
}

// take adds part, which lies behind the chunk, if that makes one reasonable read.
func (c *chunk) take(part block.Extent, may *block.Set) bool {
	gap := block.Extent{Off: c.span.End(), Len: part.Off - c.span.End()}
	sameCell := part.Off&^(chunkSize-1) == c.span.Off&^(chunkSize-1)
	if !sameCell || gap.Len > readThrough || !may.Covers(gap) {
		return false
	}
	c.want = append(c.want, part)
	c.span.Len = part.End() - c.span.Off
	return true
}
