// Package scan is the capture of a machine whose kernel cannot give the data of writes.
// It knows of each disk one thing: whether anything was written to it since it was armed,
// by the kernel's own count of sectors.
//
// That is enough for exact points, though not for many: the file systems are frozen, the
// disks are compared with the replica by hash, and if nobody has written to them from the
// beginning to the end, the replica is what the disks were at that moment. The first
// write after the thaw ends the epoch; the next point comes with the next scan.
//
// What the count leaves out are commands that go past the block layer (SG_IO, NVMe
// passthrough).
package scan

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/block"
)

// settleEvery is how often a barrier looks again.
const settleEvery = 10 * time.Millisecond

// source implements capture.Source. Positions in a ring that does not exist are all zero.
type source struct {
	sysfs string // of devices by number
	ring  uint64

	mu         sync.Mutex
	disks      map[block.DiskID]*disk
	generation uint64
	armed      bool
	lost       string // what was written first since it was armed; empty: nothing
}

// disk is a tracked disk.
type disk struct {
	capture.Disk
	at      counters
	changed bool // written to, or doubted, since the vault had all of it
}

// counters are a disk's sectors that were changed, since boot.
type counters struct{ written, discarded uint64 }

// Open begins anew: nothing of an earlier process is left, and what was written
// meanwhile is not known.
func Open() (capture.Source, capture.Resume, error) { return open("/sys/dev/block") }

func open(sysfs string) (capture.Source, capture.Resume, error) {
	if _, err := os.Stat(sysfs); err != nil {
		return nil, capture.Resume{}, fmt.Errorf("%w: %w", capture.ErrUnsupported, err)
	}
	var name [8]byte
	_, _ = rand.Read(name[:]) // never fails
	return &source{sysfs: sysfs, ring: binary.LittleEndian.Uint64(name[:]), disks: map[block.DiskID]*disk{}},
		capture.Resume{Detail: "what was written since the last run is not known"}, nil
}

func (s *source) Track(_ context.Context, d capture.Disk) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.disks[d.ID] != nil {
		return fmt.Errorf("%w: %s", capture.ErrTracked, d.Name)
	}
	k := &disk{Disk: d, changed: true}
	if on, err := s.text(k, "queue/iostats"); err == nil && on == "0" {
		return fmt.Errorf("%w: the kernel does not count the writes to %s (%s): echo 1 >/sys/block/%s/queue/iostats",
			capture.ErrRefused, d.Name, d.Path, filepath.Base(d.Path))
	}
	if _, err := s.count(k); err != nil {
		return err
	}
	s.disks[d.ID] = k
	s.lose(k, "it was not tracked before")
	return nil
}

func (s *source) Untrack(id block.DiskID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.disks[id] == nil {
		return fmt.Errorf("%w: %s", capture.ErrNotTracked, id)
	}
	delete(s.disks, id)
	return nil
}

func (s *source) Disks() []capture.Disk {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []capture.Disk
	for _, k := range s.disks {
		all = append(all, k.Disk)
	}
	slices.SortFunc(all, func(a, b capture.Disk) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Exclude: a write is a write here, also the agent's own. It writes to no disk while
// anything is frozen.
func (s *source) Exclude(block.DiskID, []block.Extent) error { return nil }

func (s *source) Arm(context.Context) (capture.Armed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.disks {
		at, err := s.count(k)
		if err != nil {
			return capture.Armed{}, err
		}
		k.changed = k.changed || at != k.at
		k.at = at
	}
	s.generation++
	s.armed, s.lost = true, ""
	return s.stretch(), nil
}

func (s *source) stretch() capture.Armed {
	return capture.Armed{Generation: s.generation, Ring: s.ring}
}

func (s *source) Armed() (capture.Armed, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look()
	return s.stretch(), s.armed && s.lost == ""
}

func (s *source) Disarm() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look()
	s.armed = false
	return nil
}

// look compares the counts with those of when the disks were armed. A disk that does not
// answer may have been anything meanwhile.
func (s *source) look() {
	for _, k := range s.disks {
		switch at, err := s.count(k); {
		case err != nil:
			s.lose(k, err.Error())
		case at != k.at:
			s.lose(k, fmt.Sprintf("%d bytes were written, %d discarded, and this kernel does not say which",
				(at.written-k.at.written)*block.SectorSize, (at.discarded-k.at.discarded)*block.SectorSize))
		}
	}
}

func (s *source) lose(k *disk, why string) {
	k.changed = true
	if s.armed && s.lost == "" {
		s.lost = fmt.Sprintf("disk %s (%s): %s", k.Name, k.Path, why)
	}
}

// Barrier waits until no write is under way: one from before a stretch would end it.
func (s *source) Barrier(ctx context.Context, ids ...block.DiskID) error {
	for {
		s.mu.Lock()
		var waits string
		var failed error
		for id, k := range s.disks {
			if len(ids) > 0 && !slices.Contains(ids, id) {
				continue
			}
			busy, err := s.busy(k)
			if failed = err; err != nil {
				break
			}
			if busy {
				waits = k.Path
			}
		}
		s.mu.Unlock()
		if failed != nil || waits == "" {
			return failed
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("capture: waiting for the writes to %s: %w", waits, ctx.Err())
		case <-time.After(settleEvery):
		}
	}
}

func (s *source) Poll(func(capture.Record) bool) (n int, lost bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.armed {
		return 0, false, nil
	}
	s.look()
	return 0, s.lost != "", nil
}

func (s *source) Position() uint64      { return 0 }
func (s *source) Polled() uint64        { return 0 }
func (s *source) Behind() bool          { return false }
func (s *source) Doze() <-chan struct{} { return nil } // there is no ring
func (s *source) Advance(uint64) error  { return nil }
func (s *source) Rewind()               {}

func (s *source) Health() (capture.Health, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look()
	h := capture.Health{Armed: s.armed && s.lost == ""}
	if s.lost != "" {
		h.Losses = []capture.Loss{{Reason: capture.NotCaptured, Cause: s.lost, Count: 1}}
	}
	for id, k := range s.disks {
		size, err := s.size(k)
		h.Disks = append(h.Disks, capture.DiskHealth{
			Disk: id, Gone: err != nil, Size: size, Resized: err == nil && size != k.Size, Suspect: k.changed, Audit: capture.AuditImpossible,
		})
	}
	return h, nil
}

func (s *source) SwapDirty(context.Context) (uint64, error) { return 0, nil }

// Dirty is all of a disk that was written to: nothing tells where.
func (s *source) Dirty(id block.DiskID) (*block.Set, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.disks[id]
	if k == nil {
		return nil, fmt.Errorf("%w: %s", capture.ErrNotTracked, id)
	}
	s.look()
	if !k.changed {
		return block.NewSet(), nil
	}
	return block.NewSet(block.Extent{Len: k.Size}), nil
}

func (s *source) MarkDirty(id block.DiskID, doubt *block.Set) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.disks[id]
	if k == nil {
		return fmt.Errorf("%w: %s", capture.ErrNotTracked, id)
	}
	k.changed = k.changed || doubt.Count() > 0
	return nil
}

// ForgetDirty: the vault has all of the disks, as they have been since they were armed.
func (s *source) ForgetDirty() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.look(); s.armed && s.lost == "" {
		for _, k := range s.disks {
			k.changed = false
		}
	}
	return nil
}

func (s *source) RetainDirty() error { return nil }
func (s *source) Close() error       { return nil }
func (s *source) Remove() error      { return nil }
