package resync

import (
	"context"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// still is a witness of a disk that nobody writes to but as noted.
type still struct{ written *block.Set }

func (s still) Watch(context.Context, block.DiskID, block.Extent) (Watch, error) { return s, nil }
func (s still) Settle(context.Context) (block.Position, *block.Set, error) {
	return block.Position{Epoch: 1, Seq: 7}, s.written, nil
}
func (still) Close() {}

// vaulted answers from bytes, of which some are in no frame and some cannot be given.
type vaulted struct {
	data            []byte
	absent, damaged *block.Set
}

func (v *vaulted) ProofHashes(_ context.Context, at block.Position, _ block.DiskID, off, length, granule int64) ([]block.Hash16, error) {
	if at.Seq != 7 {
		return nil, errors.New("not the boundary")
	}
	if v.damaged.Overlaps(block.Extent{Off: off, Len: length}) {
		return nil, wire.Refuse(wire.CodeHashesDamaged, "", "damaged")
	}
	var out []block.Hash16
	for ; length > 0; off, length = off+granule, length-granule {
		e := block.Extent{Off: off, Len: min(granule, length)}
		if v.absent.Covers(e) {
			out = append(out, block.NoData)
			continue
		}
		out = append(out, block.HashRange(v.data[e.Off:e.End()]))
	}
	return out, nil
}

const proofDisk = 5<<20 + 512 // its last granules are short

func painted(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>12) | 1
	}
	return b
}

// TestProofTellsApart: each kind of block ends up in its own set, whatever lies around.
func TestProofTellsApart(t *testing.T) {
	const at = 64 << 10
	own := painted(proofDisk)
	v := &vaulted{data: slices.Clone(own), absent: block.NewSet(), damaged: block.NewSet()}
	mark := func(i int64) block.Extent { return block.Extent{Off: at*i + 8192, Len: 4096} }
	v.data[mark(3).Off+77] ^= 1
	v.absent.Add(mark(5))
	clear(v.data[mark(5).Off:mark(5).End()])
	v.damaged.Add(mark(7))
	v.absent.Add(mark(9)) // zeros on both sides
	clear(own[mark(9).Off:mark(9).End()])
	clear(v.data[mark(9).Off:mark(9).End()])
	v.data[proofDisk-1] ^= 1 // the short block at the end
	v.data[mark(11).Off] ^= 1
	v.data[mark(13).Off] ^= 1 // both not to be compared: free, and blind
	v.data[mark(15).Off] ^= 1 // always written to
	d := &memDisk{t: t, data: own, usage: Usage{Free: block.NewSet(mark(11)), Layout: "x"}}
	q, err := OpenProof(t.Context(), Target{ID: block.DiskID{1}, Size: proofDisk}, block.NewSet(mark(13)), still{block.NewSet(mark(15))}, v,
		Options{Open: func(Target) (Device, error) { return d, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	verdict, end, err := q.Next(t.Context(), 0)
	if err != nil || end != proofDisk {
		t.Fatalf("ends at %d: %v", end, err)
	}
	for what, c := range map[string]struct{ got, want *block.Set }{
		"differs": {verdict.Differs, block.NewSet(mark(3), block.Extent{Off: proofDisk - 512, Len: 512})},
		"absent":  {verdict.Absent, block.NewSet(mark(5))},
		"damaged": {verdict.Damaged, block.NewSet(mark(7))},
		"written": {verdict.Written, block.NewSet(mark(15))},
	} {
		if !slices.Equal(c.got.Extents(), c.want.Extents()) {
			t.Errorf("%s is %v, want %v", what, c.got.Extents(), c.want.Extents())
		}
	}
	if want := int64(proofDisk - 5*4096 - 512 - 4096); verdict.Equal.Bytes() != want || q.Free != 4096 || q.Total(0) != proofDisk-2*4096 {
		t.Errorf("%d bytes equal, want %d; %d free, %d in all", verdict.Equal.Bytes(), want, q.Free, q.Total(0))
	}
}

// TestDifferenceOutlivesASync: what the file systems had still to write is no difference;
// what stays is one, also where they cannot be made to write.
func TestDifferenceOutlivesASync(t *testing.T) {
	page, rot := block.Extent{Off: 1 << 20, Len: 4096}, block.Extent{Off: 2 << 20, Len: 4096}
	for name, hangs := range map[string]error{"written": nil, "hanging": errBroke} {
		own := painted(proofDisk)
		v := &vaulted{data: slices.Clone(own), absent: block.NewSet(), damaged: block.NewSet()}
		own[page.Off] ^= 1
		own[rot.Off] ^= 1
		d := &memDisk{t: t, data: own, usage: Usage{Layout: wholeDisk}}
		d.sync = func() error { d.data[page.Off] = v.data[page.Off]; return hangs }
		q, err := OpenProof(t.Context(), Target{ID: block.DiskID{1}, Size: proofDisk}, nil, still{block.NewSet()}, v,
			Options{Open: func(Target) (Device, error) { return d, nil }})
		if err != nil {
			t.Fatal(err)
		}
		verdict, _, err := q.Next(t.Context(), 0)
		q.Close()
		if err != nil || !slices.Equal(verdict.Differs.Extents(), []block.Extent{rot}) || !verdict.Equal.Covers(page) {
			t.Errorf("%s: %v, %v", name, &verdict, err)
		}
	}
}

// TestProofReportsAnUnreadableDisk: what cannot be read is not equal.
func TestProofReportsAnUnreadableDisk(t *testing.T) {
	d := &memDisk{t: t, data: painted(proofDisk), bad: 1 << 20}
	v := &vaulted{data: d.data, absent: block.NewSet(), damaged: block.NewSet()}
	q, err := OpenProof(t.Context(), Target{ID: block.DiskID{1}, Size: proofDisk}, nil, still{block.NewSet()}, v,
		Options{Open: func(Target) (Device, error) { return d, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if _, _, err := q.Next(t.Context(), 0); err == nil {
		t.Fatal("a proof over a bad sector")
	} else if _, ok := errors.AsType[*ReadError](err); !ok {
		t.Fatal(err)
	}
}

// TestPiecesArePartOfTheSet: pieces are the set, in order, none wider than asked for.
func TestPiecesArePartOfTheSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := block.NewSet()
		for range rapid.IntRange(0, 20).Draw(t, "extents") {
			s.Add(block.Extent{Off: rapid.Int64Range(0, 1000).Draw(t, "off") * 4096, Len: rapid.Int64Range(1, 300).Draw(t, "blocks") * 4096})
		}
		size := rapid.Int64Range(1, 200).Draw(t, "size") * 4096
		all := block.NewSet()
		for p := range pieces(s, size) {
			e := p.Extents()
			if wide := e[len(e)-1].End() - e[0].Off; wide > size {
				t.Fatalf("a piece of %d, want %d", wide, size)
			}
			if all.Overlaps(block.Extent{Off: e[0].Off, Len: 1 << 40}) {
				t.Fatal("pieces out of order")
			}
			all.Union(p)
		}
		if !slices.Equal(all.Extents(), s.Extents()) {
			t.Fatalf("pieces are %v, want %v", all.Extents(), s.Extents())
		}
	})
}

// halfBlind answers as the replica, but cannot use what it stores of a stretch.
type halfBlind struct {
	*replica
	damaged block.Extent
}

func (h halfBlind) RangeHashes(ctx context.Context, id block.DiskID, off, length, granule int64) ([]block.Hash16, error) {
	if h.damaged.Overlaps(block.Extent{Off: off, Len: length}) {
		return nil, wire.Refuse(wire.CodeHashesDamaged, "", "damaged")
	}
	return h.replica.RangeHashes(ctx, id, off, length, granule)
}

// TestHashCompareRepairsWhatTheVaultCannotGive: it used to ask for ever.
func TestHashCompareRepairsWhatTheVaultCannotGive(t *testing.T) {
	id := block.DiskID{1}
	d := &memDisk{t: t, data: painted(proofDisk), usage: Usage{Layout: wholeDisk}}
	rep := newReplica(t, map[block.DiskID][]byte{id: slices.Clone(d.data)})
	bad := block.Extent{Off: 3<<20 + 8192, Len: 4096}
	clear(rep.disks[id][bad.Off:bad.End()])
	_, err := Run(t.Context(), Job{Machine: machine, Epoch: 9, Method: frame.MethodHash, Disks: []Target{{ID: id, Size: proofDisk}}},
		rep, halfBlind{rep, bad}, Options{Open: func(Target) (Device, error) { return d, nil }})
	if err != nil {
		t.Fatal(err)
	}
	rep.spool(len(rep.frames))
	if !rep.sent[id].Covers(bad) || !slices.Equal(rep.disks[id], d.data) {
		t.Errorf("sent %v, not %v", rep.sent[id].Extents(), bad)
	}
	if n := rep.sent[id].Bytes(); n > 2<<20 {
		t.Errorf("%d bytes sent for a damaged block", n)
	}
}
