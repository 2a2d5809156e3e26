package resync

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

var (
	machine  = block.MachineID{1, 2, 3}
	errCut   = errors.New("connection cut")
	errBroke = errors.New("medium error")
)

// memDisk is a disk in memory that records what is read of it.
type memDisk struct {
	t     testing.TB
	data  []byte
	usage Usage
	// layout is what Layout answers; empty is as in usage.
	layout string
	bad    int64 // offset that cannot be read, 0 is none
	faults int   // reads left that fail in passing
	sync   func() error

	mu   sync.Mutex
	read block.Set
}

func (d *memDisk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off%block.FineGranule != 0 || len(p)%block.SectorSize != 0 {
		d.t.Errorf("unaligned read of %d at %d", len(p), off)
	}
	if d.faults > 0 && len(p) > block.FineGranule {
		d.faults--
		return 0, errBroke
	}
	if d.bad >= off && d.bad < off+int64(len(p)) && d.bad > 0 {
		return 0, errBroke
	}
	d.read.Add(block.Extent{Off: off, Len: int64(len(p))})
	n := copy(p, d.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d *memDisk) Close() error                         { return nil }
func (d *memDisk) Size() (int64, error)                 { return int64(len(d.data)), nil }
func (d *memDisk) Usage(context.Context) (Usage, error) { return d.usage, nil }
func (d *memDisk) Activity() (Activity, error)          { return Activity{}, errors.ErrUnsupported }
func (d *memDisk) Layout() (string, error) {
	if d.layout != "" {
		return d.layout, nil
	}
	return d.usage.Layout, nil
}

func (d *memDisk) Sync(context.Context) error {
	if d.sync == nil {
		return nil
	}
	return d.sync()
}

// replica takes base frames like relay and vault together, and answers with hashes of
// what it held before.
type replica struct {
	t      testing.TB
	disks  map[block.DiskID][]byte
	old    map[block.DiskID][]byte
	cutAt  uint64 // this frame is refused, 0 is none
	frames [][]byte
	trail  Trail
	sent   map[block.DiskID]*block.Set // written as data or zeros
}

func newReplica(t testing.TB, disks map[block.DiskID][]byte) *replica {
	r := &replica{t: t, disks: disks, old: map[block.DiskID][]byte{}, sent: map[block.DiskID]*block.Set{}}
	for id, d := range disks {
		r.old[id], r.sent[id] = bytes.Clone(d), block.NewSet()
	}
	return r
}

func (r *replica) SendBase(_ context.Context, raw []byte, n uint64, c Cursor) error {
	if n == r.cutAt {
		return errCut
	}
	f, err := frame.Parse(raw)
	if err != nil {
		return err
	}
	if want := uint64(len(r.frames) + 1); n != want || uint64(f.First) != want || f.Kind != frame.KindBase || f.Epoch != 9 {
		r.t.Errorf("frame %d arrives as %d: %+v", want, n, f.Header)
	}
	r.trail.Note(c)
	r.frames = append(r.frames, bytes.Clone(raw))
	return nil
}

// spool applies frames up to n; the others are lost.
func (r *replica) spool(n int) Cursor {
	for _, raw := range r.frames[:n] {
		f, err := frame.Parse(raw)
		if err != nil {
			r.t.Fatal(err)
		}
		payload, err := f.Payload(nil)
		if err != nil {
			r.t.Fatal(err)
		}
		for x := range f.All() {
			r.apply(x, payload)
		}
	}
	r.frames = r.frames[:n]
	return r.trail.Spooled(uint64(n))
}

func (r *replica) apply(x frame.Extent, payload []byte) {
	r.sent[x.Disk].Add(x.Extent)
	dst := r.disks[x.Disk][x.Off:x.End()]
	if x.Op == frame.OpZero {
		clear(dst)
		return
	}
	copy(dst, payload[x.DataOff:x.DataOff+x.Len])
	for b := range blocks(block.Extent{Len: x.Len}) {
		if block.IsZero(dst[b.Off:b.End()]) {
			r.t.Errorf("zeros at %d sent as data", x.Off+b.Off)
		}
	}
}

func (r *replica) RangeHashes(_ context.Context, id block.DiskID, off, length, granule int64) ([]block.Hash16, error) {
	if off%granule != 0 {
		r.t.Errorf("hashes asked from %d by %d", off, granule)
	}
	return block.AppendHashes(nil, r.old[id][off:off+length], granule), nil
}

// scene is a source, what the replica holds of it, and a job to settle the rest.
type scene struct {
	job   Job
	disks []*memDisk
	rep   *replica
	opt   Options
	// remounted: the file systems changed, so free space may have been read as well.
	remounted bool
}

// drawSet draws up to n extents of a disk, cut at sectors.
func drawSet(rng *rand.Rand, size int64, n int) *block.Set {
	s := block.NewSet()
	for range rng.IntN(n + 1) {
		off := rng.Int64N(size/512) * 512
		l := (1 + rng.Int64N(1+rng.Int64N(size/512))) * 512
		s.Add(block.Extent{Off: off, Len: min(l, size-off)})
	}
	return s
}

// paint fills the set with blocks of one byte, zero included, now and then changing.
func paint(rng *rand.Rand, d []byte, s *block.Set) {
	for e := range s.All() {
		v := byte(rng.IntN(3))
		for at := e.Off; at < e.End(); at += 512 {
			if rng.IntN(64) == 0 {
				v = byte(rng.IntN(3))
			}
			for i := at; i < min(at+512, e.End()); i++ {
				d[i] = v
			}
		}
	}
}

func drawScene(t *rapid.T, tb testing.TB) *scene {
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	s := &scene{job: Job{Machine: machine, Epoch: 9}}
	s.job.Method = rapid.SampledFrom([]frame.Method{frame.MethodFull, frame.MethodRanges, frame.MethodHash}).Draw(t, "method")
	old := map[block.DiskID][]byte{}
	for i := range rapid.IntRange(1, 2).Draw(t, "disks") {
		size := int64(rapid.IntRange(1, 9000).Draw(t, "sectors")) * 512
		whole := block.NewSet(block.Extent{Len: size})
		target := Target{ID: block.DiskIDFromName(string(rune('A' + i))), Path: "/dev/mem", Size: size}
		before := make([]byte, size)
		if target.Fresh = rapid.Bool().Draw(t, "fresh"); !target.Fresh {
			paint(rng, before, whole)
		}
		now := bytes.Clone(before)
		dirty := drawSet(rng, size, 20)
		if target.Doubt = dirty; rapid.Bool().Draw(t, "all") || target.Fresh {
			target.Doubt, dirty = nil, whole
		}
		paint(rng, now, dirty)
		d := &memDisk{t: tb, data: now, usage: Usage{Free: drawSet(rng, size, 10), Layout: "one"}}
		if d.usage.Free.Count() == 0 {
			d.usage.Layout = wholeDisk
		}
		paint(rng, now, d.usage.Free.Clone()) // free space may hold anything, but …
		if target.Doubt != nil {
			for e := range outside(target.Doubt, size).All() { // … what is not in doubt is equal
				copy(now[e.Off:e.End()], before[e.Off:e.End()])
			}
		}
		s.job.Disks, s.disks, old[target.ID] = append(s.job.Disks, target), append(s.disks, d), before
	}
	s.rep = newReplica(tb, old)
	s.opt.frameSize = rapid.SampledFrom([]int{4 << 10, 256 << 10, 2 << 20}).Draw(t, "frame")
	s.opt.Open = func(t Target) (Device, error) {
		for i := range s.job.Disks {
			if s.job.Disks[i].ID == t.ID {
				return s.disks[i], nil
			}
		}
		return nil, errors.New("no such disk")
	}
	return s
}

func outside(s *block.Set, size int64) *block.Set {
	o := block.NewSet(block.Extent{Len: size})
	for e := range s.All() {
		o.Remove(e)
	}
	return o
}

// check holds the outcome against the definition: every used byte in doubt is the
// source's, everything not in doubt is as it was, nothing else was read or sent.
func (s *scene) check(t *rapid.T) {
	for i, d := range s.disks {
		target := s.job.Disks[i]
		want, may := coverage(target, s.free(d))
		spared := want
		if i == 0 && d.layout != "" && d.layout != d.usage.Layout {
			want, spared = may, may
		} else if i == 0 && s.remounted {
			spared = may
		}
		got, old, sent := s.rep.disks[target.ID], s.rep.old[target.ID], s.rep.sent[target.ID]
		for e := range want.All() {
			if !bytes.Equal(got[e.Off:e.End()], d.data[e.Off:e.End()]) {
				t.Fatalf("disk %d: replica differs from source in used %v", i, e)
			}
		}
		for e := range outside(spared, target.Size).All() {
			if !bytes.Equal(got[e.Off:e.End()], old[e.Off:e.End()]) {
				t.Fatalf("disk %d: replica was changed in %v, which nobody asked for", i, e)
			}
		}
		for e := range d.read.All() {
			if !may.Covers(e) {
				t.Fatalf("disk %d: read %v, in doubt is only %v", i, e, may.Extents())
			}
		}
		if !s.remounted {
			s.checkSent(t, target, d, sent)
		}
	}
}

// free is what of the disk may be left out: a repair of ranges leaves out nothing.
func (s *scene) free(d *memDisk) *block.Set {
	if s.job.Method == frame.MethodRanges {
		return nil
	}
	return d.usage.Free
}

// checkSent: a hash compare sends no block that was equal, a ranges job sends all of
// its blocks, a fresh full copy leaves zeros out.
func (s *scene) checkSent(t *rapid.T, target Target, d *memDisk, sent *block.Set) {
	want, _ := coverage(target, s.free(d))
	old := s.rep.old[target.ID]
	for e := range want.All() {
		for b := range blocks(e) {
			src, was := d.data[b.Off:b.End()], old[b.Off:b.End()]
			travels := true
			switch {
			case s.job.Method == frame.MethodHash:
				travels = !bytes.Equal(src, was)
			case s.job.Method == frame.MethodFull && target.Fresh:
				travels = !block.IsZero(src)
			}
			if sent.Covers(b) != travels {
				t.Fatalf("block %v sent: %v, want %v", b, !travels, travels)
			}
		}
	}
}
