package capture

import (
	"context"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/pkg/block"
)

// TestExcludedWritesAreNotSeen: a write is unseen only if it lies wholly within an
// excluded range.
func TestExcludedWritesAreNotSeen(t *testing.T) {
	ctx := context.Background()
	d := newLoop(t, memory(t), 64<<20)
	s := tracking(t, 16<<20, d)
	r := rand.New(rand.NewPCG(1, 2))
	var extents []block.Extent
	for off := int64(1 << 20); off < 60<<20; off += 64 << 10 {
		extents = append(extents, block.Extent{Off: off + r.Int64N(16)*512, Len: (1 + r.Int64N(64)) * 512})
	}
	must(t, s.Exclude(d.ID, extents))
	excluded := block.NewSet(extents...)
	want, seen := &block.Set{}, &block.Set{}
	for range 400 {
		e := block.Extent{Off: r.Int64N(60<<20/512) * 512, Len: (1 + r.Int64N(8)) * 512}
		writeAt(t, d, e.Off, e.Len)
		if !excluded.Covers(e) {
			want.Add(e)
		}
	}
	_, lost, err := s.Poll(func(r Record) bool {
		seen.Add(r.Extent)
		return true
	})
	must(t, err)
	if lost {
		t.Fatal("lost")
	}
	sameSet(t, "seen", seen, want)
	dirty := &block.Set{}
	for e := range want.All() {
		dirty.Add(e.Align(minGranule))
	}
	dirtyIs(t, s, d, dirty.Extents()...)

	must(t, s.Exclude(d.ID, nil))
	writeAt(t, d, extents[0].Off, extents[0].Len)
	if n, _, err := s.Poll(func(Record) bool { return true }); n == 0 || err != nil {
		t.Fatalf("%d records, %v, when nothing is excluded any more", n, err)
	}
	if err := s.Exclude(d.ID, []block.Extent{{Off: 100, Len: 512}}); err == nil {
		t.Error("excluded half a sector")
	}
	many := make([]block.Extent, maxExcludes+1)
	for i := range many {
		many[i] = block.Extent{Off: int64(i) * 8192, Len: 4096}
	}
	if err := s.Exclude(d.ID, many); err == nil {
		t.Error("excluded more ranges than fit")
	}
	must(t, s.Exclude(d.ID, many[:maxExcludes]))
	last := many[maxExcludes-1]
	writeAt(t, d, last.Off, last.Len)
	writeAt(t, d, last.Off+last.Len, 512)
	if n, _, err := s.Poll(func(Record) bool { return true }); n != 1 || err != nil {
		t.Fatalf("%d records, %v, want the one behind the last excluded range", n, err)
	}
	_, err = s.SwapDirty(ctx)
	must(t, err)
}

func TestSectorRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Disk{Name: "d", Size: 1 << 20}
		set := &block.Set{}
		var extents []block.Extent
		for range rapid.IntRange(0, 20).Draw(t, "extents") {
			first := rapid.Int64Range(0, 2000).Draw(t, "first")
			e := block.Extent{Off: first * 512, Len: rapid.Int64Range(1, 2048-first).Draw(t, "sectors") * 512}
			extents = append(extents, e)
			set.Add(e)
		}
		ranges, err := sectorRanges(d, extents)
		if err != nil {
			t.Fatal(err)
		}
		if len(ranges)-1 != set.Count() {
			t.Fatalf("%d ranges, want %d", len(ranges)-1, set.Count())
		}
		i := 1
		for e := range set.All() {
			if int64(ranges[i].First)*512 != e.Off || int64(ranges[i].Last+1)*512 != e.End() {
				t.Fatalf("range %d is %v, want %v", i, ranges[i], e)
			}
			i++
		}
	})
}
