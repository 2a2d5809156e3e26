package hrl

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/pkg/block"
)

var kinds = []Kind{Memory, Disk}

// each runs the test on both kinds of file.
func each(t *testing.T, test func(t *testing.T, kind Kind)) {
	for _, k := range kinds {
		t.Run(k.String(), func(t *testing.T) { test(t, k) })
	}
}

func create(t testing.TB, kind Kind, ringBytes int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.hrl")
	if err := Create(path, Config{Kind: kind, RingBytes: ringBytes, StateBytes: BlockSize}); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, path string) (*Ring, Found) {
	t.Helper()
	r, found, err := Open(path, [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	return r, found
}

// frameOf is a frame's content that tells its number and size.
func frameOf(seq block.Seq, n int) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(uint64(seq), uint64(n)))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func appendOne(t testing.TB, r *Ring, seq block.Seq, n int) Entry {
	t.Helper()
	e, err := r.Append(seq, seq, uint64(seq)*10, frameOf(seq, n))
	if err != nil {
		t.Fatalf("append %d: %v", seq, err)
	}
	return e
}

func check(t testing.TB, r *Ring, entries []Entry, first, last block.Seq) {
	t.Helper()
	if want := int(last - first + 1); len(entries) != want {
		t.Fatalf("%d entries, want %d (%d..%d)", len(entries), want, first, last)
	}
	for i, e := range entries {
		seq := first + block.Seq(i)
		if e.First != seq || e.Last != seq || e.RingPos != uint64(seq)*10 {
			t.Fatalf("entry %d is %+v, want seq %d", i, e, seq)
		}
		b, err := r.Read(e)
		if err != nil || !bytes.Equal(b, frameOf(seq, e.Len)) {
			t.Fatalf("entry %d: %v, or other bytes than were appended", seq, err)
		}
	}
}

func TestAppendSurvivesReopen(t *testing.T) {
	each(t, func(t *testing.T, kind Kind) {
		path := create(t, kind, 256<<10)
		r, found := open(t, path)
		if len(found.Entries) != 0 || found.State != nil || found.Mark != (Mark{}) {
			t.Fatalf("a new file holds %+v", found)
		}
		for seq := block.Seq(1); seq <= 5; seq++ {
			appendOne(t, r, seq, 1000*int(seq))
		}
		if err := r.SaveState([]byte("state")); err != nil {
			t.Fatal(err)
		}
		if err := r.Release(Mark{Seq: 2, RingPos: 20, Closed: 7}); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		r, found = open(t, path)
		defer r.Close()
		check(t, r, found.Entries, 3, 5)
		if found.Mark != (Mark{2, 20, 7}) || string(found.State) != "state" || !found.Current || found.Boot != [16]byte{1} {
			t.Fatalf("found %+v", found)
		}
		appendOne(t, r, 6, 100)
	})
}

func TestStateIsNotCurrentAfterAnotherOpen(t *testing.T) {
	path := create(t, Disk, MinRing)
	r, _ := open(t, path)
	r.SaveState([]byte("x"))
	r.Close()
	for i, want := range []bool{true, false, false} {
		r, found := open(t, path)
		if found.Current != want || string(found.State) != "x" {
			t.Errorf("open %d: current %v, state %q", i, found.Current, found.State)
		}
		r.Close()
	}
}

func TestFullIsAnErrorAndChangesNothing(t *testing.T) {
	each(t, func(t *testing.T, kind Kind) {
		path := create(t, kind, 64<<10)
		r, _ := open(t, path)
		defer r.Close()
		if _, err := r.Append(1, 1, 0, make([]byte, 64<<10)); !errors.Is(err, ErrTooLarge) {
			t.Fatalf("a frame of the ring's size: %v", err)
		}
		size, _ := os.Stat(path)
		seq, oldest := block.Seq(0), block.Seq(1)
		for lap := range 50 {
			for {
				if _, err := r.Append(seq+1, seq+1, uint64(seq+1)*10, frameOf(seq+1, 3000+lap)); errors.Is(err, ErrFull) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				seq++
			}
			check(t, r, r.entries, oldest, seq)
			oldest = seq - 2
			if err := r.Release(Mark{Seq: oldest - 1}); err != nil {
				t.Fatal(err)
			}
		}
		if now, _ := os.Stat(path); now.Size() != size.Size() {
			t.Errorf("the file grew from %d to %d bytes", size.Size(), now.Size())
		}
	})
}

// TestAgainstModel appends, releases, cuts and reopens against a list.
func TestAgainstModel(t *testing.T) {
	each(t, func(t *testing.T, kind Kind) {
		dir := t.TempDir()
		n := 0
		rapid.Check(t, func(rt *rapid.T) {
			n++
			path := filepath.Join(dir, fmt.Sprint(n))
			defer os.Remove(path)
			size := int64(BlockSize * rapid.IntRange(2, 12).Draw(rt, "blocks"))
			if err := Create(path, Config{Kind: kind, RingBytes: size, StateBytes: 64}); err != nil {
				rt.Fatal(err)
			}
			model(t, rt, path)
		})
	})
}

func model(t *testing.T, rt *rapid.T, path string) {
	r, _ := open(t, path)
	var want []Entry
	var released, seq block.Seq
	for range rapid.IntRange(1, 60).Draw(rt, "steps") {
		switch op := rapid.SampledFrom([]string{"append", "append", "append", "release", "cut", "close", "kill"}).Draw(rt, "op"); op {
		case "append":
			n := rapid.IntRange(1, 10000).Draw(rt, "n")
			e, err := r.Append(seq+1, seq+1, uint64(seq+1)*10, frameOf(seq+1, n))
			if err == nil {
				seq++
				want = append(want, e)
			} else if !errors.Is(err, ErrFull) && !errors.Is(err, ErrTooLarge) || len(want) == 0 && r.span(n) <= r.RingBytes {
				rt.Fatalf("append of %d to %d entries: %v", n, len(want), err)
			}
		case "release":
			released = max(released, seq-block.Seq(rapid.IntRange(0, len(want)).Draw(rt, "keep")))
			if err := r.Release(Mark{Seq: released}); err != nil {
				rt.Fatal(err)
			}
		case "cut":
			if len(want) > 0 {
				i := rapid.IntRange(0, len(want)-1).Draw(rt, "at")
				if err := r.Cut(want[i]); err != nil {
					rt.Fatal(err)
				}
				seq, want = want[i].First-1, want[:i]
				released = min(released, seq)
			}
		case "close", "kill":
			if op == "close" {
				r.Close()
			} else {
				r.store.Close() // without a last anchor
			}
			var found Found
			r, found = open(t, path)
			r.Release(Mark{Seq: released})
			for len(found.Entries) > 0 && found.Entries[0].Last <= released {
				found.Entries = found.Entries[1:] // the anchor on a disk may lag
			}
			if fmt.Sprint(found.Entries) != fmt.Sprint(want[max(0, len(want)-int(seq-released)):]) {
				rt.Fatalf("reopened with %v, want %v", found.Entries, want)
			}
		}
		for len(want) > 0 && want[0].Last <= released {
			want = want[1:]
		}
		if len(want) > 0 {
			check(t, r, r.entries, want[0].First, seq)
		} else if len(r.entries) > 0 {
			rt.Fatalf("%d entries, want none", len(r.entries))
		}
	}
	r.Close()
}
