package capturetest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/block"
)

// Source is one process's hold on the kernel.
func (k *Kernel) Source() capture.Source {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cursor = k.base
	return source{k}
}

type source struct{ *Kernel }

func (s source) find(id block.DiskID) *disk {
	i := slices.IndexFunc(s.disks, func(d *disk) bool { return d.ID == id })
	if i < 0 {
		return nil
	}
	return s.disks[i]
}

func (s source) Track(_ context.Context, want capture.Disk) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.find(want.ID)
	switch {
	case d == nil || d.gone:
		return capture.ErrNoDisk
	case d.tracked:
		return capture.ErrTracked
	}
	d.tracked, d.size, d.suspect = true, want.Size, false
	return nil
}

func (s source) Untrack(id block.DiskID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.find(id); d != nil {
		d.untrack()
	}
	return nil
}

func (s source) Disks() []capture.Disk {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []capture.Disk
	for _, d := range s.disks {
		if d.tracked {
			c := d.Disk
			c.Size = d.size
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b capture.Disk) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (s source) Exclude(block.DiskID, []block.Extent) error { return nil }

func (s source) Arm(context.Context) (capture.Armed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base += uint64(len(s.ring))
	s.cursor, s.ring = s.base, nil
	s.armed, s.lost = true, false
	s.stretch++
	return capture.Armed{Generation: s.stretch, Ring: s.boot, Pos: s.base}, nil
}

func (s source) Armed() (capture.Armed, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.armed || s.lost {
		return capture.Armed{Ring: s.boot}, false
	}
	return capture.Armed{Generation: s.stretch, Ring: s.boot, Pos: s.base}, true
}

func (s source) Disarm() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = false
	return nil
}

func (s source) Barrier(_ context.Context, ids ...block.DiskID) error {
	s.Flush(ids...)
	return nil
}

func (s source) Poll(fn func(capture.Record) bool) (n int, lost bool, err error) {
	s.mu.Lock()
	s.reserved = s.base + uint64(len(s.ring))
	s.mu.Unlock()
	for {
		r, more, lost := s.next()
		if !more {
			return n, lost, nil
		}
		if r.disk.tracked {
			if !fn(r.Record) {
				return n, false, nil
			}
			n++
		}
		s.mu.Lock()
		s.cursor++
		s.mu.Unlock()
	}
}

// next is the record at the cursor, or whether one is missing there.
func (s source) next() (r record, more, lost bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.cursor - s.base
	if i >= uint64(len(s.ring)) {
		return record{}, false, s.lost
	}
	return s.ring[i], true, false
}

func (s source) Position() uint64 { s.mu.Lock(); defer s.mu.Unlock(); return s.base }
func (s source) Polled() uint64   { s.mu.Lock(); defer s.mu.Unlock(); return s.cursor }
func (s source) Behind() bool     { s.mu.Lock(); defer s.mu.Unlock(); return s.cursor < s.reserved }

func (s source) Doze() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ring) > 0 {
		return nil
	}
	return s.bell.Wait()
}

func (s source) Rewind() { s.mu.Lock(); defer s.mu.Unlock(); s.cursor = s.base }

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

func (s source) Health() (capture.Health, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := capture.Health{Armed: s.armed && !s.lost}
	for _, d := range s.disks {
		if !d.tracked {
			continue
		}
		resized := d.Disk.Size != d.size
		h.Disks = append(h.Disks, capture.DiskHealth{Disk: d.ID, Gone: d.gone || d.left, Size: d.Disk.Size, Resized: resized, Suspect: d.suspect})
		switch {
		case d.gone || d.left:
			h.Losses = append(h.Losses, capture.Loss{Reason: capture.DeviceChanged, Cause: "disk " + d.Name + " is gone", Count: 1})
		case resized:
			h.Losses = append(h.Losses, capture.Loss{Reason: capture.Resized, Cause: "disk " + d.Name + " has another size", Count: 1})
		}
	}
	if s.lost {
		h.Losses = append(h.Losses, capture.Loss{Reason: capture.RingOverflow, Cause: "the ring was full", Count: 1})
	}
	return h, nil
}

func (s source) SwapDirty(context.Context) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.disks {
		d.retained.Union(&d.current)
		d.current = block.Set{}
	}
	return s.base + uint64(len(s.ring)), nil
}

func (s source) Dirty(id block.DiskID) (*block.Set, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.find(id)
	if d == nil || !d.tracked {
		return nil, capture.ErrNotTracked
	}
	all := d.current.Clone()
	all.Union(&d.retained)
	return all, nil
}

func (s source) ForgetDirty() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.disks {
		if s.lost {
			d.current.Union(&d.retained)
		} else {
			d.suspect = false
		}
		d.retained = block.Set{}
	}
	return nil
}

func (s source) RetainDirty() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.disks {
		d.current.Union(&d.retained)
		d.retained = block.Set{}
	}
	return nil
}

func (s source) MarkDirty(id block.DiskID, doubt *block.Set) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.find(id)
	if d == nil || !d.tracked {
		return capture.ErrNotTracked
	}
	d.current.Union(doubt)
	return nil
}

func (s source) Close() error  { return nil }
func (s source) Remove() error { return nil }

// ReadAt reads what has reached a disk.
func (k *Kernel) ReadAt(id block.DiskID, p []byte, off int64) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := source{k}.find(id)
	if d == nil || d.gone {
		return 0, capture.ErrNoDisk
	}
	end := min(off+int64(len(p)), d.Disk.Size)
	n := 0
	for at := off; at < end; {
		cell := at / Cell
		c := copy(p[n:end-off], fill(d.content[cell : cell+1])[at-cell*Cell:])
		n, at = n+c, at+int64(c)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Size is a disk's size now.
func (k *Kernel) Size(id block.DiskID) (int64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := source{k}.find(id)
	if d == nil || d.gone {
		return 0, capture.ErrNoDisk
	}
	return d.Disk.Size, nil
}
