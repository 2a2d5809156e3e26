package hrl

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldenHeader is the file header of every golden file.
var goldenHeader = Header{
	Kind: Memory, ID: [16]byte{0: 0xab, 15: 0xcd}, RingBytes: MinRing, StateBytes: BlockSize, Align: MinAlign,
	Created: time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC),
}

// golden is a whole file: entries 1..9 of growing size in a ring in its second lap,
// of which 1..5 are released and 1..3 written over, and two states.
func golden() ([]byte, []Entry) {
	h := goldenHeader
	s := memStore{b: make([]byte, h.FileBytes())}
	r := &Ring{Header: h, store: s, anchor: Anchor{Serial: 1, Generation: 3}, floor: 2}
	h.Put(s.b)
	var entries []Entry
	for seq := block.Seq(1); seq <= 9; seq++ {
		if seq > 4 {
			r.Release(Mark{Seq: seq - 4, RingPos: uint64(seq-4) * 10, Closed: int64(seq-4) * 1e9})
		}
		e, err := r.Append(seq, seq, uint64(seq)*10, frameOf(seq, 1000+int(seq)*100))
		if err != nil {
			panic(fmt.Sprint(seq, err))
		}
		entries = append(entries, e)
	}
	r.SaveState([]byte(`{"n":1}`))
	r.SaveState([]byte(`{"n":2}`))
	return s.b, entries[5:]
}

// memStore is a mapped store on the heap.
type memStore struct {
	Store
	b []byte
}

func (s memStore) Mapped(off, n int64) []byte                  { return s.b[off : off+n : off+n] }
func (s memStore) Read(off, n int64, _ []byte) ([]byte, error) { return s.Mapped(off, n), nil }
func (s memStore) Write(b []byte, off int64) error             { copy(s.b[off:], b); return nil }
func (s memStore) Sync() error                                 { return nil }
func (s memStore) Close() error                                { return nil }

// defects are the golden files: what was done to a whole one, what opening it says,
// and which entries and state are left where it opens.
var defects = []struct {
	name        string
	damage      func(b []byte, e []Entry) []byte
	err         error
	first, last block.Seq
	end         error
	state       string
}{
	{name: "whole", first: 6, last: 9, end: ErrBlank, state: `{"n":2}`},
	{name: "empty-file", damage: func(b []byte, _ []Entry) []byte { return nil }, err: ErrShort},
	{name: "not-ours", damage: func(b []byte, _ []Entry) []byte { return append([]byte("#!/bin/sh\n"), b[:200]...) }, err: ErrNotHRL},
	{name: "blank", damage: func(b []byte, _ []Entry) []byte { return make([]byte, len(b)) }, err: ErrBlank},
	{name: "newer-version", damage: func(b []byte, _ []Entry) []byte { b[8]++; return b }, err: ErrNewer},
	{name: "older-version", damage: func(b []byte, _ []Entry) []byte { b[8] = 0; return b }, err: ErrOlder},
	{name: "header-bit-flip", damage: func(b []byte, _ []Entry) []byte { b[35] ^= 1; return b }, err: ErrChecksum},
	{name: "header-claims-too-much", damage: func(b []byte, _ []Entry) []byte {
		h := goldenHeader
		h.RingBytes = MaxRing * 2
		h.Put(b)
		return b
	}, err: ErrLimit},
	{name: "truncated", damage: func(b []byte, _ []Entry) []byte { return b[:len(b)-1] }, err: ErrShort},
	{name: "both-anchors-damaged", damage: func(b []byte, _ []Entry) []byte { b[BlockSize+20]++; b[2*BlockSize+20]++; return b }, err: ErrChecksum},
	{name: "newest-anchor-torn", damage: func(b []byte, _ []Entry) []byte {
		clear(b[goldenHeader.anchorOffset(newest(b))+40:][:30])
		return b
	}, first: 0, end: ErrStale, state: `{"n":2}`}, // what it points to was written over since: nothing, rather than wrong
	{name: "newest-state-torn", damage: func(b []byte, _ []Entry) []byte {
		clear(b[goldenHeader.stateOffset(0)+StateSize+3:][:4])
		return b
	}, first: 6, last: 9, end: ErrBlank, state: `{"n":1}`},
	{name: "tail-torn-in-frame", damage: func(b []byte, e []Entry) []byte {
		clear(b[goldenHeader.offset(e[3].Pos)+500:][:100])
		return b
	}, first: 6, last: 8, end: ErrPayload, state: `{"n":2}`},
	{name: "tail-torn-in-header", damage: func(b []byte, e []Entry) []byte {
		clear(b[goldenHeader.offset(e[3].Pos)+32:][:EntrySize-32])
		return b
	}, first: 6, last: 8, end: ErrChecksum, state: `{"n":2}`},
	{name: "middle-bit-flip", damage: func(b []byte, e []Entry) []byte { b[goldenHeader.offset(e[1].Pos)+100] ^= 8; return b },
		first: 6, last: 6, end: ErrPayload, state: `{"n":2}`},
	{name: "stale-lap-at-tail", damage: func(b []byte, e []Entry) []byte {
		old := e[3]
		old.Pos -= Pos(goldenHeader.RingBytes)
		goldenHeader.PutEntry(b[goldenHeader.offset(e[3].Pos):], old)
		return b
	}, first: 6, last: 8, end: ErrStale, state: `{"n":2}`},
	{name: "stale-generation-at-tail", damage: func(b []byte, e []Entry) []byte {
		old := e[3]
		old.Generation--
		goldenHeader.PutEntry(b[goldenHeader.offset(e[3].Pos):], old)
		return b
	}, first: 6, last: 8, end: ErrStale, state: `{"n":2}`},
	{name: "entry-of-another-file", damage: func(b []byte, e []Entry) []byte {
		other := goldenHeader
		other.ID[3] = 1
		other.PutEntry(b[goldenHeader.offset(e[2].Pos):], e[2])
		return b
	}, first: 6, last: 7, end: ErrChecksum, state: `{"n":2}`},
	{name: "entry-claims-too-much", damage: func(b []byte, e []Entry) []byte {
		e[2].Len = MaxFrame
		goldenHeader.PutEntry(b[goldenHeader.offset(e[2].Pos):], e[2])
		return b
	}, first: 6, last: 7, end: ErrLimit, state: `{"n":2}`},
}

// newest is the serial of the newest anchor of a whole golden file.
func newest(b []byte) uint64 {
	im := &Image{Header: goldenHeader, s: memStore{b: b}}
	a, err := im.NewestAnchor()
	if err != nil {
		panic(err)
	}
	return a.Serial
}

func TestGolden(t *testing.T) {
	for _, d := range defects {
		t.Run(d.name, func(t *testing.T) {
			file := filepath.Join("testdata", d.name+".hrl")
			want, entries := golden()
			if d.damage != nil {
				want = d.damage(want, entries)
			}
			if *update {
				if err := os.WriteFile(file, want, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Error("the format has changed: raise Version, or take the change back")
			}
			path := filepath.Join(t.TempDir(), "copy.hrl")
			if err := os.WriteFile(path, got, 0o600); err != nil {
				t.Fatal(err)
			}
			r, found, err := Open(path, [16]byte{})
			if !errors.Is(err, d.err) || (err == nil) != (d.err == nil) {
				t.Fatalf("open: %v, want %v", err, d.err)
			}
			if err != nil {
				return
			}
			defer r.Close()
			if d.last > 0 {
				check(t, r, found.Entries, d.first, d.last)
			} else if len(found.Entries) > 0 {
				t.Errorf("entries %+v", found.Entries)
			}
			if !errors.Is(found.End.Verdict, d.end) || string(found.State) != d.state {
				t.Errorf("ends with %v, state %s; want %v, %s", found.End.Verdict, found.State, d.end, d.state)
			}
		})
	}
}
