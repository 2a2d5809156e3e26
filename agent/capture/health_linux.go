package capture

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Health looks for what the programs cannot see themselves: skipped runs, devices
// that went or changed, bytes issued that were never submitted. What it finds is
// a loss from then on, and Poll reports it.
func (s *source) Health() (Health, error) {
	unlock, err := s.hold()
	if err != nil {
		return Health{}, err
	}
	defer unlock()
	s.consume.Lock()
	_, err = s.checkMisses()
	s.consume.Unlock()
	if err != nil {
		return Health{}, err
	}
	h := Health{
		RingBytes: s.ring.size(), RingUsed: s.ring.producer() - s.ring.consumer(),
		Skipped: atomic.LoadUint64(&s.state.Causes[causeRecursion]), Rescued: atomic.LoadUint64(&s.state.Rescued),
	}
	for _, t := range s.tracked {
		d, err := s.diskHealth(t)
		if err != nil {
			return Health{}, err
		}
		h.Disks = append(h.Disks, d)
	}
	slices.SortFunc(h.Disks, func(a, b DiskHealth) int { return strings.Compare(a.Disk.String(), b.Disk.String()) })
	h.Losses = s.losses()
	h.Armed = s.armed() != 0 && !s.broken()
	return h, nil
}

func (s *source) diskHealth(t *tracked) (DiskHealth, error) {
	h := DiskHealth{Disk: t.ID, Suspect: s.suspect(t)}
	now, err := numbered(t.Major, t.Minor)
	h.Gone = err != nil || now.Sequence != t.Sequence || now.Size == 0
	if err == nil {
		h.Size = now.Size
	}
	h.Resized = !h.Gone && h.Size != t.Size
	// Said once: the doubt stays until the disk is untracked or forgotten.
	switch {
	case h.Gone && !h.Suspect:
		s.lose(causeChanged, t.slot)
	case h.Resized && !h.Suspect:
		s.lose(causeResized, t.slot)
	}
	if h.Audit, err = s.audit(t); err != nil || h.Audit == AuditImpossible {
		return h, err // a look at counts keeps a kprobe from running (bpf/rescue.h)
	}
	c, err := s.counted(t.slot)
	h.Submitted, h.Issued = c.Submitted, c.Issued
	return h, err
}

// numbered describes the device that bears a number now, without its name. It is
// asked with every frame: the kernel follows the link by the number in one call.
func numbered(major, minor uint32) (Disk, error) {
	sectors, err := fileInt(numberedFile(major, minor, "size"))
	if err != nil {
		return Disk{}, fmt.Errorf("%w: no device %d:%d", ErrNoDisk, major, minor)
	}
	d := Disk{Size: sectors * block.SectorSize}
	if n, err := fileInt(numberedFile(major, minor, "diskseq")); err == nil {
		d.Sequence = uint64(n)
	}
	return d, nil
}

// numberedFile is what sysfs says of the device that bears a number.
func numberedFile(major, minor uint32, file string) string {
	return fmt.Sprintf("/sys/dev/block/%d:%d/%s", major, minor, file)
}
