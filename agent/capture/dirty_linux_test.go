package capture

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/pkg/block"
)

func TestGranuleKeepsAMapWithinEightMiB(t *testing.T) {
	const gib, tib = 1 << 30, 1 << 40
	for _, c := range []struct {
		size    int64
		bitwise bool
		want    int64
	}{
		{gib, true, 4 << 10}, {256 * gib, true, 4 << 10}, {256*gib + 1, true, 8 << 10},
		{tib, true, 16 << 10}, {16 * tib, true, 256 << 10},
		{32 * gib, false, 4 << 10}, {tib, false, 128 << 10},
	} {
		got := granuleFor(c.size, c.bitwise)
		if got != c.want {
			t.Errorf("granule of %d bytes (bits %v) is %d, want %d", c.size, c.bitwise, got, c.want)
		}
		if n := int64(chunksFor(c.size, got, c.bitwise)) * chunkBytes; n > maxDirtyBytes {
			t.Errorf("a map of %d bytes for %d", n, c.size)
		}
	}
}

// TestDirtyMapAgainstModel holds a map, in both its forms, against a set.
func TestDirtyMapAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := &dirtyMap{granule: minGranule, bitwise: rapid.Bool().Draw(t, "bitwise")}
		d.size = rapid.Int64Range(1, 300).Draw(t, "granules")*minGranule - rapid.Int64Range(0, 7).Draw(t, "short")*512
		n := int(chunksFor(d.size, d.granule, d.bitwise)) * chunkBytes
		d.mem = [2][]byte{make([]byte, n), make([]byte, n)}
		want := [2]*block.Set{{}, {}}
		for range rapid.IntRange(0, 30).Draw(t, "marks") {
			gen := rapid.IntRange(0, 1).Draw(t, "generation")
			first := rapid.Int64Range(0, (d.size-1)/minGranule).Draw(t, "first")
			last := min(first+rapid.Int64Range(0, 70).Draw(t, "more"), (d.size-1)/minGranule)
			ours := rapid.Bool().Draw(t, "marked by the agent") // else as the programs do it
			if ours {
				off := min(first*minGranule+rapid.Int64Range(0, 7).Draw(t, "sector")*512, d.size-512)
				end := max(off, last*minGranule) + 512
				d.mark(gen, block.Extent{Off: off, Len: end - off})
			}
			for g := first; g <= last && !ours; g++ {
				if d.bitwise {
					d.mem[gen][g/8] |= 1 << (g % 8)
				} else {
					d.mem[gen][g] = 1
				}
			}
			want[gen].Add(block.Extent{Off: first * minGranule, Len: min((last+1)*minGranule, d.size) - first*minGranule})
		}
		all := want[0].Clone()
		all.Union(want[1])
		sameSet(t, "the union", d.set(), all)
		d.merge(1)
		d.clear(1)
		sameSet(t, "merged", d.set(), all)
	})
}

type fataler interface {
	Fatalf(format string, args ...any)
}

func sameSet(t fataler, what string, got, want *block.Set) {
	g, w := got.Extents(), want.Extents()
	ok := len(g) == len(w)
	for i := 0; ok && i < len(g); i++ {
		ok = g[i] == w[i]
	}
	if !ok {
		t.Fatalf("%s is %v, want %v", what, g, w)
	}
}

func writeAt(t testing.TB, d Disk, off, n int64) {
	t.Helper()
	f := openDirect(t, d.Path)
	defer func() { _ = f.Close() }()
	buf := aligned(int(n))
	fill(buf, rand.New(rand.NewPCG(uint64(off), rand.Uint64())))
	_, err := f.WriteAt(buf, off)
	must(t, err)
}

func dirtyIs(t testing.TB, s Source, d Disk, want ...block.Extent) {
	t.Helper()
	got, err := s.Dirty(d.ID)
	must(t, err)
	sameSet(t, "dirty", got, block.NewSet(want...))
}

// TestGenerations walks a dirty map through its life, on the kernel's side.
func TestGenerations(t *testing.T) {
	ctx := context.Background()
	d := newLoop(t, memory(t), 512<<20)
	s := openSource(t, 1<<20)
	must(t, s.Track(ctx, d))
	x := func(off, n int64) block.Extent { return block.Extent{Off: off, Len: n} }

	dirtyIs(t, s, d)
	writeAt(t, d, 512, 512)
	writeAt(t, d, 128<<20-4096, 8192) // over the end of a chunk
	first := []block.Extent{x(0, 4096), x(128<<20-4096, 8192)}
	dirtyIs(t, s, d, first...)

	if _, err := s.SwapDirty(ctx); err != nil {
		t.Fatal(err)
	}
	dirtyIs(t, s, d, first...)
	writeAt(t, d, 1<<20, 1<<20)
	dirtyIs(t, s, d, append(first, x(1<<20, 1<<20))...)

	must(t, s.ForgetDirty())
	dirtyIs(t, s, d, x(1<<20, 1<<20))
	if _, err := s.SwapDirty(ctx); err != nil {
		t.Fatal(err)
	}
	writeAt(t, d, 300<<20, 4096)
	must(t, s.RetainDirty())
	must(t, s.ForgetDirty()) // nothing is retained any more: forgets nothing
	dirtyIs(t, s, d, x(1<<20, 1<<20), x(300<<20, 4096))

	// What was retained and not forgotten survives a further swap.
	if _, err := s.SwapDirty(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SwapDirty(ctx); err != nil {
		t.Fatal(err)
	}
	dirtyIs(t, s, d, x(1<<20, 1<<20), x(300<<20, 4096))
	must(t, s.ForgetDirty())
	dirtyIs(t, s, d)

	f := openDirect(t, d.Path)
	defer func() { _ = f.Close() }()
	must(t, blkRange(f, blkDiscard, 0, d.Size))
	dirtyIs(t, s, d, x(0, d.Size))
}

// TestSwapHasRecordsBefore: a block that is dirty in the old generation alone has
// its record before the position that the swap returned.
func TestSwapHasRecordsBefore(t *testing.T) {
	ctx := context.Background()
	d := newLoop(t, memory(t), 64<<20)
	s := tracking(t, 256<<20, d)
	stop := make(chan struct{})
	done := make(chan struct{})
	defer func() { close(stop); <-done }()
	go func() {
		defer close(done)
		for seed := uint64(0); ; seed++ {
			select {
			case <-stop:
				return
			default:
				scribble(t, d, 2, 20, seed)
			}
		}
	}()
	// Of the records before the position of the swap. A write that meets the swap
	// may be marked in the new generation and recorded before the position already.
	var longest time.Duration
	seen, before := &block.Set{}, &block.Set{}
	defer func() { t.Logf("the longest swap took %v", longest) }()
	for range 50 {
		begun := time.Now()
		pos, err := s.SwapDirty(ctx)
		must(t, err)
		longest = max(longest, time.Since(begun))
		old := s.tracked[d.ID].dirty.generationSet(1 - s.generation())
		for {
			n, lost, err := s.Poll(func(r Record) bool {
				if r.Pos > pos {
					return false
				}
				seen.Add(r.Extent.Align(minGranule))
				must(t, s.ring.freeForTest(r.Pos))
				return true
			})
			must(t, err)
			if lost {
				t.Fatal("lost")
			}
			if n == 0 {
				break
			}
		}
		before.Union(seen)
		for e := range old.All() {
			if !before.Covers(e) {
				t.Fatalf("%v is dirty but was not seen in a record before the swap", e)
			}
		}
		must(t, s.ForgetDirty())
		before, seen = seen, &block.Set{}
	}
}

// generationSet is what one generation holds.
func (d *dirtyMap) generationSet(gen int) *block.Set {
	one := *d
	one.mem[1-gen] = make([]byte, len(d.mem[gen]))
	return one.set()
}

func (r *ring) freeForTest(pos uint64) error {
	r.free(pos)
	return nil
}
