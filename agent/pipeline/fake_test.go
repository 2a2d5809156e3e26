package pipeline

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/capture/capturetest"
	"github.com/understudy-dr/understudy/agent/resync"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

const (
	blocks    = 32 // of 4 KiB, per disk
	blockSize = 4096
)

// kernel stands for what survives an agent: the disks, the ring, the dirty maps. It
// keeps capture's promises as capture.Source states them, with a ring of few records.
type kernel struct {
	mu      sync.Mutex
	disks   map[block.DiskID]*fakeDisk
	tracked []capture.Disk
	history [][]uint64  // every state of all disks, in the order of writes
	times   []time.Time // when each state came to be
	counter uint64

	ring     []capture.Record
	base     uint64 // ring position of ring[0]
	cursor   uint64
	capacity int
	ringID   uint64 // drawn with the ring
	bell     capturetest.Bell
	stretch  uint64
	armed    bool
	lost     bool
}

type fakeDisk struct {
	capture.Disk
	content           [blocks * blockSize]byte
	current, retained block.Set
}

func newKernel(disks ...string) *kernel {
	k := &kernel{disks: map[block.DiskID]*fakeDisk{}, capacity: 64, ringID: 1}
	for i, name := range disks {
		id := block.DiskIDFromName(name)
		k.disks[id] = &fakeDisk{Disk: capture.Disk{ID: id, Name: name, Path: "/dev/" + name, Major: 7, Minor: uint32(i), Size: blocks * blockSize, SectorSize: 512}}
	}
	k.remember(time.Time{})
	return k
}

func (k *kernel) found() []capture.Disk {
	var out []capture.Disk
	for _, d := range k.disks {
		out = append(out, d.Disk)
	}
	return out
}

// state is the number in each block of these disks.
func state(contents map[block.DiskID][]byte, order []block.DiskID) []uint64 {
	var s []uint64
	for _, id := range order {
		content := contents[id]
		if content == nil { // nothing of it came: zeros
			content = make([]byte, blocks*blockSize)
		}
		for b := range blocks {
			s = append(s, binary.LittleEndian.Uint64(content[b*blockSize:]))
		}
	}
	return s
}

func (k *kernel) order() []block.DiskID {
	var ids []block.DiskID
	for id := range k.disks {
		ids = append(ids, id)
	}
	sortIDs(ids)
	return ids
}

func (k *kernel) remember(at time.Time) {
	contents := map[block.DiskID][]byte{}
	for id, d := range k.disks {
		contents[id] = d.content[:]
	}
	k.history, k.times = append(k.history, state(contents, k.order())), append(k.times, at)
}

// write is one write of the protected machine: a number never written before.
func (k *kernel) write(id block.DiskID, b int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.disks[id]
	e := block.Extent{Off: int64(b) * blockSize, Len: blockSize}
	k.counter++
	at := time.Now().Add(time.Duration(k.counter)) // no two at the same time
	data := make([]byte, blockSize)
	binary.LittleEndian.PutUint64(data, k.counter)
	if k.isTracked(id) {
		d.current.Add(e)
		k.put(capture.Record{Disk: id, Op: frame.OpWrite, Extent: e, At: at, Data: data})
	}
	copy(d.content[e.Off:], data)
	k.remember(at)
}

func (k *kernel) put(r capture.Record) {
	if !k.armed || k.lost {
		return
	}
	if len(k.ring) == k.capacity {
		k.lost = true
		return
	}
	if len(k.ring) == 0 {
		k.bell.Ring()
	}
	r.Pos = k.base + uint64(len(k.ring)) + 1
	k.ring = append(k.ring, r)
}

func (k *kernel) isTracked(id block.DiskID) bool {
	for _, d := range k.tracked {
		if d.ID == id {
			return true
		}
	}
	return false
}

// crash is a power cut: the disks stay.
func (k *kernel) crash() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tracked, k.ring, k.armed, k.lost = nil, nil, false, false
	k.ringID++
	for _, d := range k.disks {
		d.current, d.retained = block.Set{}, block.Set{}
	}
}

// source is one process's hold on the kernel.
type source struct{ *kernel }

func (s source) Track(_ context.Context, d capture.Disk) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isTracked(d.ID) {
		return capture.ErrTracked
	}
	s.tracked = append(s.tracked, d)
	return nil
}

func (s source) Untrack(id block.DiskID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keep []capture.Disk
	for _, d := range s.tracked {
		if d.ID != id {
			keep = append(keep, d)
		}
	}
	s.tracked = keep
	s.kernel.disks[id].current, s.kernel.disks[id].retained = block.Set{}, block.Set{}
	return nil
}

func (s source) Disks() []capture.Disk {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]capture.Disk(nil), s.tracked...)
}

func (s source) Exclude(block.DiskID, []block.Extent) error { return nil }

func (s source) Arm(context.Context) (capture.Armed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base += uint64(len(s.ring))
	s.cursor, s.ring = s.base, nil
	s.armed, s.lost = true, false
	s.stretch++
	return capture.Armed{Generation: s.stretch, Ring: s.ringID, Pos: s.base}, nil
}

func (s source) Armed() (capture.Armed, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.armed || s.lost {
		return capture.Armed{Ring: s.ringID}, false
	}
	return capture.Armed{Generation: s.stretch, Ring: s.ringID, Pos: s.base}, true
}

func (s source) Disarm() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = false
	return nil
}

func (s source) Barrier(context.Context, ...block.DiskID) error { return nil }

func (s source) Poll(fn func(capture.Record) bool) (n int, lost bool, err error) {
	for {
		s.mu.Lock()
		i := s.cursor - s.base
		if i >= uint64(len(s.ring)) {
			lost = s.lost
			s.mu.Unlock()
			return n, lost, nil
		}
		r := s.ring[i]
		s.mu.Unlock()
		if !fn(r) {
			return n, false, nil
		}
		n++
		s.mu.Lock()
		s.cursor++
		s.mu.Unlock()
	}
}

func (s source) Position() uint64 { s.mu.Lock(); defer s.mu.Unlock(); return s.base }

func (s source) Polled() uint64 { s.mu.Lock(); defer s.mu.Unlock(); return s.cursor }

func (s source) Behind() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cursor < s.base+uint64(len(s.ring))
}

func (s source) Doze() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ring) > 0 {
		return nil
	}
	return s.bell.Wait()
}

func (s source) Advance(pos uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pos < s.base || pos > s.base+uint64(len(s.ring)) {
		return fmt.Errorf("advance to %d, the ring holds %d..%d", pos, s.base, s.base+uint64(len(s.ring)))
	}
	s.ring = s.ring[pos-s.base:]
	s.base = pos
	s.cursor = max(s.cursor, pos)
	return nil
}

func (s source) Rewind() { s.mu.Lock(); defer s.mu.Unlock(); s.cursor = s.base }

func (s source) Health() (capture.Health, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := capture.Health{Armed: s.armed && !s.lost}
	if s.lost {
		h.Losses = []capture.Loss{{Reason: capture.RingOverflow, Cause: "ring full", Count: 1}}
	}
	return h, nil
}

func (s source) SwapDirty(context.Context) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.kernel.disks {
		d.retained.Union(&d.current)
		d.current = block.Set{}
	}
	return s.base + uint64(len(s.ring)), nil
}

func (s source) Dirty(id block.DiskID) (*block.Set, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.kernel.disks[id]
	all := d.current.Clone()
	all.Union(&d.retained)
	return all, nil
}

func (s source) MarkDirty(id block.DiskID, doubt *block.Set) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kernel.disks[id].current.Union(doubt)
	return nil
}

func (s source) ForgetDirty() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.kernel.disks {
		d.retained = block.Set{}
	}
	return nil
}

func (s source) RetainDirty() error { return nil }
func (s source) Close() error       { return nil }
func (s source) Remove() error      { return nil }

// device reads a fake disk.
type device struct {
	k *kernel
	d *fakeDisk
}

func (k *kernel) open(t resync.Target) (resync.Device, error) {
	return device{k, k.disks[t.ID]}, nil
}

func (d device) ReadAt(p []byte, off int64) (int, error) {
	d.k.mu.Lock()
	defer d.k.mu.Unlock()
	n := copy(p, d.d.content[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
func (d device) Close() error         { return nil }
func (d device) Size() (int64, error) { return d.d.Disk.Size, nil }
func (d device) Usage(context.Context) (resync.Usage, error) {
	return resync.Usage{Layout: "whole"}, nil
}
func (d device) Sync(context.Context) error         { return nil }
func (d device) Layout() (string, error)            { return "whole", nil }
func (d device) Activity() (resync.Activity, error) { return resync.Activity{}, nil }
