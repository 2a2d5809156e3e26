package vault

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore/dir"
	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

var update = flag.Bool("update", false, "write a new golden vault")

const golden = "testdata/golden-v1"

// goldenLife is short, but as a vault it has runs, a log object of which thinning has
// taken a part, a base that is not complete, and a lock.
func goldenLife(machine block.MachineID) *history {
	h := newHistory(1, 16*sector)
	h.machine = machine
	h.builder = frame.NewBuilder(machine)
	h.begin(frame.ReasonInitial)
	h.baseFrame(frame.CompressAlways, write{0, frame.OpWrite, 0, pattern(12*sector, 1)})
	h.finish()
	for i := range 4 {
		h.step(time.Hour)
		h.frame(frame.CompressNever, write{0, frame.OpWrite, int64(i) * sector, pattern(2*sector, byte(10*i))})
	}
	h.frame(frame.CompressNever, write{0, frame.OpDiscard, 8 * sector, make([]byte, sector)})
	h.begin(frame.ReasonRingOverflow) // and is still copying
	h.baseFrame(frame.CompressNever, write{0, frame.OpWrite, 4 * sector, pattern(sector, 77)})
	return h
}

// TestGoldenVault reads a vault that the first release of the format wrote. Should
// this fail, vaults in the field cannot be read either: the format needs a new version
// and a migration.
func TestGoldenVault(t *testing.T) {
	machine, err := block.ParseMachineID("000102030405060708090a0b0c0d0e0f")
	if err != nil {
		t.Fatal(err)
	}
	h := goldenLife(machine)
	if *update {
		writeGolden(t, h)
	}
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS(golden)); err != nil {
		t.Fatal(err)
	}
	store := must(dir.Open(root))
	v, m := reopen(t, store, h)
	want := []block.Position{h.order[2], h.order[4], h.order[5]}
	if got := positions(t, m); !slices.Equal(got, want) {
		t.Fatalf("points %v, want %v", got, want)
	}
	h.check(t, m, want)
	if p := must(m.PointAt(t.Context(), "golden")); p.Position != want[0] || !p.Locked {
		t.Fatalf("%+v", p)
	}
	if report := check(t, v); report.Severity() != Fine {
		t.Fatalf("%+v", report)
	}
}

func writeGolden(t *testing.T, h *history) {
	t.Helper()
	if err := os.RemoveAll(golden); err != nil {
		t.Fatal(err)
	}
	store := must(dir.Open(golden))
	v, w := setup(t, store, h)
	for _, batch := range [][][]byte{h.base[:1], h.log[:3], h.log[3:], h.base[1:]} {
		if err := w.Commit(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	m := must(v.Machine(t.Context(), h.machine))
	if err := m.Lock(t.Context(), h.order[2], "golden"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Thin(t.Context(), Retention{All: time.Hour / 2, Hourly: time.Hour / 2, Daily: time.Hour / 2}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(golden, ".tmp")); err != nil {
		t.Fatal(err)
	}
}

// FuzzParseHeads takes any bytes for an index of frames. Limit: 8 times the input and
// 16 KiB.
func FuzzParseHeads(f *testing.F) {
	h := goldenLife(block.MachineID{1})
	var list []*frame.Frame
	for _, raw := range slices.Concat(h.log, h.base) {
		list = append(list, must(frame.Parse(raw)))
	}
	index, data := splitFrames(list)
	dataLen := int64(len(bytes.Join(data, nil)))
	f.Add(index, dataLen)
	f.Add(index[:len(index)-1], dataLen)
	f.Add(index, dataLen+1)
	f.Fuzz(func(t *testing.T, index []byte, dataLen int64) {
		fuzztest.Bounded(t, 8*len(index)+16<<10, func() { _, _ = parseHeads(index, dataLen) })
		heads, err := parseHeads(index, dataLen)
		if err != nil {
			if !errors.Is(err, errHeads) {
				t.Fatalf("an error of no class: %v", err)
			}
			return
		}
		var again []byte
		var off int64
		for _, h := range heads {
			again = append(again, h.raw...)
			if h.dataOff != off {
				t.Fatalf("a payload at %d, want %d", h.dataOff, off)
			}
			if h.Kind != frame.KindMark {
				off += int64(h.Stored)
			}
			for e := range h.All() {
				_ = e
			}
		}
		if !bytes.Equal(again, index) || off != dataLen {
			t.Fatal("the heads do not come back")
		}
	})
}

// FuzzParseManifest takes any JSON for a manifest. Limit: 256 times the input (two
// letters can be an element of a list) and 64 KiB.
func FuzzParseManifest(f *testing.F) {
	h, m := hourlyForFuzz(f)
	f.Add(must(json.Marshal(must(m.snapshot(f.Context())).manifest)))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"runs":[{"end":{"epoch":1,"seq":2}}],"through":{"epoch":1,"seq":2},"log":{"seq":2},"epochs":[null]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzztest.Bounded(t, 256*len(b)+64<<10, func() { _, _ = parseManifest(b) })
		mf, err := parseManifest(b)
		if err != nil {
			return
		}
		// What is accepted must be safe to list, to look into, and to carry on from.
		c := newCatalog(h.machine, mf)
		for _, p := range c.points() {
			c.layers(p.Position)
		}
		c.layers(block.Position{Epoch: 1 << 60, Seq: 1 << 60})
		encoded := must(json.Marshal(mf))
		again, err := parseManifest(encoded)
		if err != nil || !bytes.Equal(must(json.Marshal(again)), encoded) {
			t.Fatalf("does not come back: %v", err)
		}
	})
}

func hourlyForFuzz(f *testing.F) (*history, *Machine) {
	h := goldenLife(block.MachineID{1})
	v, w := setup(f, mem.New(), h)
	h.base = h.base[:1] // an object holds base frames of one epoch
	h.flush(f, w)
	m := must(v.Machine(f.Context(), h.machine))
	if _, err := m.thin(f.Context(), Retention{}); err != nil {
		f.Fatal(err)
	}
	return h, m
}

// FuzzParseDocument takes any JSON for what names a vault. Limit: 64 times the input
// and 16 KiB.
func FuzzParseDocument(f *testing.F) {
	f.Add(must(os.ReadFile(filepath.Join(golden, vaultName))))
	f.Add([]byte(`{"format":"understudy-vault","version":9}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzztest.Bounded(t, 64*len(b)+16<<10, func() { _, _ = parseDocument(b) })
		doc, err := parseDocument(b)
		if err == nil && (doc.ID == "" || doc.Version != 1) {
			t.Fatalf("accepted %+v", doc)
		}
		if err != nil && !errors.Is(err, ErrNotVault) && !errors.Is(err, ErrOlder) && !errors.Is(err, ErrNewer) {
			t.Fatalf("an error of no class: %v", err)
		}
	})
}

// FuzzParseKey takes any bytes for a key, a document of one and a wrapped one. Limit:
// 64 times the input and 64 KiB.
func FuzzParseKey(f *testing.F) {
	f.Add(bytes.Repeat([]byte("0f"), 32))
	f.Add(bytes.Repeat([]byte{7}, 32))
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzztest.Bounded(t, 64*len(b)+64<<10, func() {
			_, _ = parseKey("key", b)
			_, _ = parseKeyDocument(b)
			if _, err := unwrap(Key{1}, "machine", b); err == nil {
				t.Fatal("a key was unwrapped that nobody wrapped")
			}
		})
	})
}

// FuzzParseNames takes any name that a store lists. Limit: 8 times the input and 4 KiB.
func FuzzParseNames(f *testing.F) {
	id := block.MachineID{1}
	f.Add(baseName(id, 1, 2))
	f.Add(runName(id, 1, 2, 3))
	f.Fuzz(func(t *testing.T, name string) {
		fuzztest.Bounded(t, 8*len(name)+4<<10, func() { _, _ = parseNumbers(name, basePrefix(id), 2) })
		if n, err := parseNumbers(name, basePrefix(id), 2); err == nil && len(n) != 2 {
			t.Fatal(n)
		}
	})
}
