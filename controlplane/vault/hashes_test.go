package vault

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/controlplane/objstore/storetest"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

const granule = block.CoarseGranule

// TestRangeHashesAreKeptBesideTheBase: after the base has been merged, the hashes of
// what nobody has touched since are answered without reading data, and what was
// touched is read.
func TestRangeHashesAreKeptBesideTheBase(t *testing.T) {
	h := newHistory(1, 40*granule+3*sector) // its last granule is short
	store := mem.New()
	faulty := storetest.NewFaulty(store)
	v, w := setup(t, faulty, h)
	h.begin(frame.ReasonInitial)
	for i := range 10 {
		h.baseFrame(frame.CompressAuto, write{0, frame.OpWrite, int64(i) * 2 * granule, pattern(2*granule, byte(i))})
	}
	h.finish()
	h.step(3 * time.Hour)
	h.frame(frame.CompressNever,
		write{0, frame.OpWrite, 3*granule + sector, pattern(sector, 99)},
		write{0, frame.OpDiscard, 7*granule + sector, make([]byte, sector)})
	h.flush(t, w)
	m := must(v.Machine(t.Context(), h.machine))
	if _, err := m.Thin(t.Context(), DefaultRetention); err != nil {
		t.Fatal(err)
	}

	d := h.disks[0]
	want := block.AppendHashes(nil, h.want[h.order[len(h.order)-1]][d.ID], granule)
	_, other := reopen(t, faulty, h) // with cold caches
	data := 0
	faulty.SetRule(func(c storetest.Call) storetest.Fault {
		if c.Op == "get" && (strings.Contains(c.Key, "/run/") || strings.Contains(c.Key, "/log/")) {
			data++
		}
		return storetest.Fault{}
	})
	got, err := other.RangeHashes(t.Context(), block.Position{}, d.ID, 0, d.Size, granule)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("hashes differ: %v", err)
	}
	// The run's index and its hashes, the log's index, and for the two granules that
	// have changed the run's data around the change and the log's.
	if data > 12 {
		t.Fatalf("%d gets for hashes of which two were to be computed", data)
	}
	for _, bad := range []struct{ off, n, granule int64 }{{1, granule, granule}, {0, d.Size + 1, granule}, {0, granule, 100}, {-granule, granule, granule}, {0, granule, 0}} {
		if _, err := other.RangeHashes(t.Context(), block.Position{}, d.ID, bad.off, bad.n, bad.granule); err == nil {
			t.Errorf("hashes of %+v were given", bad)
		}
	}
}

// TestResyncComparesWithTheEpochBefore: while a new epoch copies, what it has stored
// already is no part of what its reads are compared with.
func TestResyncComparesWithTheEpochBefore(t *testing.T) {
	h := newHistory(1, 2*granule)
	v, w := setup(t, mem.New(), h)
	h.begin(frame.ReasonInitial)
	h.flush(t, w)
	m := must(v.Machine(t.Context(), h.machine))
	d := h.disks[0]
	hashes := func() []block.Hash16 {
		t.Helper()
		got, err := m.RangeHashes(t.Context(), block.Position{}, d.ID, 0, d.Size, granule)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := hashes(); !slices.Equal(got, block.AppendHashes(nil, make([]byte, d.Size), granule)) {
		t.Fatal("an empty replica does not hash as zeros")
	}
	h.finish()
	h.frame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(granule, 1)})
	h.flush(t, w)
	before := hashes()
	h.begin(frame.ReasonUncleanStop)
	h.frame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(granule, 2)})
	h.baseFrame(frame.CompressNever, write{0, frame.OpWrite, granule, pattern(granule, 3)})
	h.flush(t, w)
	if got := hashes(); !slices.Equal(got, before) {
		t.Fatal("the new epoch is part of what it is compared with")
	}
	h.finish()
	h.flush(t, w)
	if got := hashes(); slices.Equal(got, before) {
		t.Fatal("the completed epoch is not seen")
	}
}

func TestHashSectionAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disks := [2]block.DiskID{{1}, {2}}
		w := newHashWriter()
		want := map[block.DiskID]map[int64]block.Hash16{}
		for _, disk := range disks {
			image, known := pattern(8*granule, disk[0]), make([]bool, 8*granule/sector)
			for off := 0; off < len(known); {
				off += rapid.SampledFrom([]int{0, 0, 1, 64}).Draw(t, "gap")
				n := min(rapid.SampledFrom([]int{1, 64, 128, 200}).Draw(t, "len"), len(known)-off)
				if n <= 0 {
					break
				}
				w.add(disk, int64(off)*sector, image[off*sector:(off+n)*sector])
				for i := off; i < off+n; i++ {
					known[i] = true
				}
				off += n
			}
			want[disk] = map[int64]block.Hash16{}
			const each = granule / sector
			for g := 0; g < len(known); g += each {
				if !slices.Contains(known[g:g+each], false) {
					want[disk][int64(g)*sector] = block.HashRange(image[g*sector : (g+each)*sector])
				}
			}
		}
		all, err := parseHashes(w.out)
		if err != nil {
			t.Fatal(err)
		}
		for _, disk := range disks {
			for off := int64(0); off < 9*granule; off += granule {
				got, ok := findHash(all, disk, off)
				expect, has := want[disk][off]
				if ok != has || got != expect {
					t.Fatalf("disk %v granule %d: found %v, want %v", disk[0], off/granule, ok, has)
				}
			}
		}
	})
}

// FuzzParseHashes takes any bytes for a section of range hashes. Limit: 8 times the
// input and 16 KiB.
func FuzzParseHashes(f *testing.F) {
	w := newHashWriter()
	w.add(block.DiskID{1}, 0, pattern(3*granule, 1))
	w.add(block.DiskID{1}, 5*granule, pattern(granule, 2))
	f.Add(w.out)
	f.Add(w.out[:len(w.out)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzztest.Bounded(t, 8*len(b)+16<<10, func() { _, _ = parseHashes(b) })
		all, err := parseHashes(b)
		if err != nil {
			return
		}
		var again []byte
		for _, s := range all {

			again = append(again, s.disk[:]...)
			again = append(again, b[len(again):len(again)+stretchHeader-16]...)
			again = append(again, s.hashes...)
			if _, ok := findHash(all, s.disk, s.off); !ok {
				t.Fatal("a stretch's first granule is not found")
			}
		}
		if !bytes.Equal(again, b) {
			t.Fatal("the section does not come back")
		}
	})
}

// TestHashesAfterAnEpochThatCameToNothing: the newest epoch is compared with the same
// point as the one before it, and has a larger disk.
func TestHashesAfterAnEpochThatCameToNothing(t *testing.T) {
	h := newHistory(1, 64*sector)
	v, w := setup(t, mem.New(), h)
	h.begin(frame.ReasonInitial)
	h.flush(t, w)
	m := must(v.Machine(t.Context(), h.machine))
	id := h.disks[0].ID
	for _, size := range []int64{64 * sector, 128 * sector} {
		h.disks[0].Size = size
		h.below[id] = make([]byte, size)
		h.wrote = nil
		h.begin(frame.ReasonResized)
		h.flush(t, w)
		if _, err := m.RangeHashes(t.Context(), block.Position{}, id, 0, size, block.FineGranule); err != nil {
			t.Errorf("hashes of %d bytes: %v", size, err)
		}
	}
}
