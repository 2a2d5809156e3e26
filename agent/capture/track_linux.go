package capture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/understudy-dr/understudy/agent/capture/bpf"
	"github.com/understudy-dr/understudy/pkg/block"
)

// Flags of a disk that the programs look at.
const diskNVMe = 2

// slotName is what the kernel keeps of a slot for the next process.
type slotName struct {
	Disk *Disk `json:"disk,omitempty"`
	// Retired is where the ring stood when the slot was given up: until all before
	// is consumed, its number still means the old disk.
	Retired uint64 `json:"retired,omitempty"`
}

const slotNameBytes = 1024

func (s *source) readName(slot uint32) (slotName, error) {
	raw, err := s.maps["names"].LookupBytes(slot)
	if err != nil {
		return slotName{}, fmt.Errorf("reading the name of disk slot %d: %w", slot, err)
	}
	n, err := parseName(raw)
	if err != nil {
		return n, fmt.Errorf("disk slot %d: %w", slot, err)
	}
	return n, nil
}

// parseName reads what writeName wrote; nothing but zeros is a slot without a name.
func parseName(raw []byte) (n slotName, err error) {
	if raw = bytes.TrimRight(raw, "\x00"); len(raw) == 0 {
		return n, nil
	}
	if err := json.Unmarshal(raw, &n); err != nil {
		return slotName{}, fmt.Errorf("its name cannot be read: %w", err)
	}
	if d := n.Disk; d != nil && (d.ID != block.DiskIDFromName(d.Name) || d.Size <= 0) {
		return slotName{}, fmt.Errorf("its name makes no sense: disk %q with id %s and %d bytes", d.Name, d.ID, d.Size)
	}
	return n, nil
}

func (s *source) writeName(slot uint32, n slotName) error {
	raw, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if len(raw) > slotNameBytes {
		return fmt.Errorf("the description of %s has %d bytes, the kernel side has room for %d", n.Disk.Path, len(raw), slotNameBytes)
	}
	return s.maps["names"].Put(slot, append(raw, make([]byte, slotNameBytes-len(raw))...))
}

// adoptDisks takes over the disks that an earlier process tracked.
func (s *source) adoptDisks() error {
	var slots [maxDisks]*tracked
	var dev, slot uint32
	entries := s.maps["devices"].Iterate()
	for entries.Next(&dev, &slot) {
		t, err := s.adoptDisk(slot)
		if err != nil {
			return err
		}
		s.tracked[t.ID], slots[slot] = t, t
	}
	s.slots.Store(&slots)
	return errors.Join(entries.Err(), s.retireUnnamed())
}

func (s *source) adoptDisk(slot uint32) (*tracked, error) {
	n, err := s.readName(slot)
	if err != nil {
		return nil, err
	}
	if n.Disk == nil {
		return nil, fmt.Errorf("disk slot %d is in use but bears no name", slot)
	}
	dirty, err := openDirty(s.maps["dirty"], slot, n.Disk.Size, s.state.Bits != 0)
	if err != nil {
		return nil, err
	}
	return &tracked{Disk: *n.Disk, slot: slot, dirty: dirty}, nil
}

// retireUnnamed gives up the slots of disks that a process was killed while it
// tracked or untracked them.
func (s *source) retireUnnamed() error {
	for slot, t := range s.slots.Load() {
		if t != nil {
			continue
		}
		n, err := s.readName(uint32(slot))
		if err != nil {
			return err
		}
		if n.Disk != nil {
			if err := s.writeName(uint32(slot), slotName{Retired: s.ring.producer()}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *source) Track(ctx context.Context, disk Disk) error {
	unlock, err := s.hold()
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.trackable(disk); err != nil {
		return err
	}
	slot, err := s.freeSlot()
	if err != nil {
		return err
	}
	dirty, err := createDirty(s.maps["dirty"], innerOf(s.spec, bpf.CaptureMapDirty), slot, disk.Size, s.state.Bits != 0)
	if err != nil {
		return fmt.Errorf("capture: tracking %s: %w", disk.Path, err)
	}
	t := &tracked{Disk: disk, slot: slot, dirty: dirty}
	if err := s.show(t); err != nil {
		dirty.close()
		return fmt.Errorf("capture: tracking %s: %w", disk.Path, err)
	}
	s.log.InfoContext(ctx, "disk tracked", "disk", disk.Name, "path", disk.Path, "bytes", disk.Size, "granule", dirty.granule)
	return nil
}

// trackable refuses a disk that is not what it was when it was described.
func (s *source) trackable(disk Disk) error {
	if s.tracked[disk.ID] != nil {
		return fmt.Errorf("%w: %s (%s)", ErrTracked, disk.Name, disk.Path)
	}
	for _, t := range s.tracked {
		if t.Major == disk.Major && t.Minor == disk.Minor {
			return fmt.Errorf("%w: %s, as %s; untrack that first", ErrTracked, disk.Path, t.Name)
		}
	}
	now, err := Resolve(disk.Path)
	if err != nil {
		return err
	}
	if now != disk {
		return fmt.Errorf("%w: %s is not the disk %s any more (now %s, %d bytes); look for it again", ErrNoDisk, disk.Path, disk.Name, now.Name, now.Size)
	}
	return nil
}

// freeSlot is a slot that no disk holds and no record in the ring bears.
func (s *source) freeSlot() (uint32, error) {
	slots := s.slots.Load()
	for slot := range uint32(maxDisks) {
		if slots[slot] != nil {
			continue
		}
		n, err := s.readName(slot)
		if err != nil {
			return 0, err
		}
		if n.Retired <= s.ring.consumer() {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("capture: %d disks are tracked, or were until a moment ago: no more fit", maxDisks)
}

// show makes the disk visible to the programs; from its end on, writes are marked.
func (s *source) show(t *tracked) error {
	flags := uint32(0)
	if strings.HasPrefix(t.Path, "/dev/nvme") {
		flags |= diskNVMe
	}
	s.disks[t.slot] = bpf.CaptureDisk{
		Diskseq:      t.Sequence,
		Sectors:      uint64(t.Size / block.SectorSize),
		GranuleShift: t.dirty.granuleShift(),
		Flags:        flags,
	}
	if err := s.writeName(t.slot, slotName{Disk: &t.Disk}); err != nil {
		return err
	}
	if err := s.zeroCounts(t.slot); err != nil {
		return err
	}
	s.assign(t.slot, t)
	if err := s.maps["devices"].Put(t.dev(), t.slot); err != nil {
		s.assign(t.slot, nil)
		return err
	}
	s.tracked[t.ID] = t
	return nil
}

// dev is the disk's number as the kernel writes it.
func (t *tracked) dev() uint32 { return t.Major<<20 | t.Minor }

// assign changes the table that Poll reads.
func (s *source) assign(slot uint32, t *tracked) {
	slots := *s.slots.Load()
	slots[slot] = t
	s.slots.Store(&slots)
}

func (s *source) Untrack(id block.DiskID) error {
	unlock, err := s.hold()
	if err != nil {
		return err
	}
	defer unlock()
	t, err := s.disk(id)
	if err != nil {
		return err
	}
	if err := s.maps["devices"].Delete(t.dev()); err != nil {
		return fmt.Errorf("capture: untracking %s: %w", t.Name, err)
	}
	if err := s.settle(); err != nil {
		return err
	}
	delete(s.tracked, id)
	delete(s.audits, id)
	s.assign(t.slot, nil)
	atomic.StoreUint32(&s.disks[t.slot].Excludes, 0)
	t.dirty.close()
	for gen := range 2 {
		_ = s.maps["dirty"].Delete(slotIndex(t.slot, gen)) // no longer of use to anybody
	}
	_ = s.maps["excludes"].Delete(t.slot)
	s.log.Info("disk untracked", "disk", t.Name)
	return s.writeName(t.slot, slotName{Retired: s.ring.producer()})
}

// counted is the sum of a slot's counters over all CPUs. Issued is read first: what
// is in it, was submitted before.
func (s *source) counted(slot uint32) (sum bpf.CaptureCounters, err error) {
	for _, add := range []func(c bpf.CaptureCounters){
		func(c bpf.CaptureCounters) { sum.Issued += c.Issued },
		func(c bpf.CaptureCounters) { sum.Submitted += c.Submitted },
	} {
		var each []bpf.CaptureCounters
		if err := s.maps["counts"].Lookup(slot, &each); err != nil {
			return sum, fmt.Errorf("reading the counters of a disk: %w", err)
		}
		for _, c := range each {
			add(c)
		}
	}
	return sum, nil
}

func (s *source) zeroCounts(slot uint32) error {
	n, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	return s.maps["counts"].Put(slot, make([]bpf.CaptureCounters, n))
}
