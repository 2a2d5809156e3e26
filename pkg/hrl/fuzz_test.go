package hrl

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// The decoders take any bytes: they answer with a verdict or with what, encoded again,
// is what they were given. Limit: 4 KiB for a part, whatever it says. Their corpus is the golden files' parts and what fuzzing
// found (testdata/fuzz). Where seal is set the checksum is made right first, so that
// fuzzing gets behind it.

// partLimit is what reading a part may allocate, in bytes: its verdict in words.
const partLimit = 4 << 10

func FuzzParseHeader(f *testing.F) {
	addParts(f, func(Header) int64 { return 0 }, HeaderSize)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal && len(b) >= HeaderSize {
			copy(b, fileMagic)
			le.PutUint32(b[12:], sumAround(0, b[:HeaderSize], 12))
		}
		fuzztest.Bounded(t, partLimit, func() { _, _ = ParseHeader(b) })
		h, err := ParseHeader(b)
		if verdict(t, err, ErrOlder, ErrNewer) {
			again := make([]byte, HeaderSize)
			h.Put(again)
			same(t, again, b)
		}
	})
}

func FuzzParseAnchor(f *testing.F) {
	addParts(f, func(h Header) int64 { return h.anchorOffset(0) }, AnchorSize)
	addParts(f, func(h Header) int64 { return h.anchorOffset(1) }, AnchorSize)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		sealPart(b, seal, AnchorSize, anchorMagic)
		fuzztest.Bounded(t, partLimit, func() { _, _ = goldenHeader.ParseAnchor(b) })
		a, err := goldenHeader.ParseAnchor(b)
		if verdict(t, err) {
			again := make([]byte, AnchorSize)
			goldenHeader.PutAnchor(again, a)
			same(t, again, b)
		}
	})
}

func FuzzParseStateHeader(f *testing.F) {
	addParts(f, func(h Header) int64 { return h.stateOffset(0) }, StateSize)
	addParts(f, func(h Header) int64 { return h.stateOffset(1) }, StateSize)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		sealPart(b, seal, StateSize, stateMagic)
		fuzztest.Bounded(t, partLimit, func() { _, _ = goldenHeader.ParseStateHeader(b) })
		s, err := goldenHeader.ParseStateHeader(b)
		if verdict(t, err) {
			again := make([]byte, StateSize)
			goldenHeader.PutStateHeader(again, s)
			same(t, again, b)
		}
	})
}

func FuzzParseEntry(f *testing.F) {
	_, entries := golden()
	for _, e := range entries {
		addParts(f, func(h Header) int64 { return h.offset(e.Pos) }, EntrySize)
	}
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		sealPart(b, seal, EntrySize, entryMagic)
		fuzztest.Bounded(t, partLimit, func() { _, _ = goldenHeader.ParseEntry(b) })
		e, err := goldenHeader.ParseEntry(b)
		if verdict(t, err) {
			again := make([]byte, EntrySize)
			goldenHeader.PutEntry(again, e)
			same(t, again, b)
		}
	})
}

// FuzzRecover opens a whole file in which something was overwritten. What it then gives
// was appended once, unless checksums were made right, and it goes on from there. Limit:
// 8 times the file and 64 KiB.
func FuzzRecover(f *testing.F) {
	whole, entries := golden()
	for _, seal := range []bool{false, true} {
		f.Add(uint32(goldenHeader.ringOffset()), []byte{1, 2, 3}, seal)
		f.Add(uint32(goldenHeader.anchorOffset(newest(whole)))+32, []byte{64, 0, 0, 0, 0, 0, 0, 0}, seal)
		f.Add(uint32(goldenHeader.offset(entries[1].Pos))+8, []byte{9, 9, 9, 9, 9, 9, 9, 9, 0xff, 0xff, 0xff}, seal)
		f.Add(uint32(goldenHeader.offset(entries[2].Pos))+56, []byte{0, 0, 1, 0}, seal)
	}
	f.Fuzz(func(t *testing.T, off uint32, over []byte, seal bool) {
		b := append([]byte(nil), whole...)
		copy(b[min(int(off), len(b)):], over)
		for _, e := range entries {
			sealPart(b[goldenHeader.offset(e.Pos):], seal, EntrySize, entryMagic)
		}
		sealPart(b[goldenHeader.anchorOffset(0):], seal, AnchorSize, anchorMagic)
		sealPart(b[goldenHeader.anchorOffset(1):], seal, AnchorSize, anchorMagic)
		fuzztest.Bounded(t, 8*len(b)+64<<10, func() {
			_, _ = (&Ring{Header: goldenHeader, store: memStore{b: append([]byte(nil), b...)}}).recover([16]byte{})
		})
		r := &Ring{Header: goldenHeader, store: memStore{b: b}}
		found, err := r.recover([16]byte{})
		if err != nil {
			return
		}
		for i, e := range found.Entries {
			if !seal && e != entries[i] {
				t.Fatalf("entry %d is %+v, which never was one of these: %+v", i, e, entries)
			}
		}
		if _, err := r.Append(100, 100, 1, []byte("next")); err != nil && !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
	})
}

// addParts seeds with the same part of every golden file.
func addParts(f *testing.F, at func(Header) int64, n int64) {
	files, err := filepath.Glob("testdata/*.hrl")
	if err != nil || len(files) == 0 {
		f.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		if off := at(goldenHeader); off+n <= int64(len(b)) {
			f.Add(b[off:][:n], false)
			f.Add(b[off:][:n], true)
		}
	}
}

func sealPart(b []byte, seal bool, size int, magic string) {
	if seal && len(b) >= size {
		goldenHeader.seal(b[:size], magic)
	}
}

// verdict reports whether the part was taken; if not the error must be one of those
// that are documented.
func verdict(t *testing.T, err error, more ...error) bool {
	for _, known := range append(more, ErrBlank, ErrNotHRL, ErrChecksum, ErrLimit, ErrShort) {
		if errors.Is(err, known) {
			return false
		}
	}
	if err != nil {
		t.Fatalf("an error that is no verdict: %v", err)
	}
	return true
}

func same(t *testing.T, again, b []byte) {
	if string(again) != string(b[:len(again)]) {
		t.Fatalf("taken, but encodes to other bytes:\n%x\n%x", b[:len(again)], again)
	}
}
