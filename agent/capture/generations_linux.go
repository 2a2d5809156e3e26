package capture

import (
	"context"
	"sync/atomic"

	"github.com/understudy-dr/understudy/pkg/block"
)

// The generations of all disks turn together. That a flip takes effect everywhere
// is the kernel's word: settle returns when the last program that may have seen
// the old generation has ended, and with it written its record.

func (s *source) SwapDirty(ctx context.Context) (uint64, error) {
	unlock, err := s.hold()
	if err != nil {
		return 0, err
	}
	defer unlock()
	s.retain()
	s.nothingRetained = false
	atomic.StoreUint64(&s.state.Generation, uint64(1-s.generation()))
	if err := s.settle(); err != nil {
		return 0, err
	}
	return s.ring.producer(), ctx.Err()
}

func (s *source) Dirty(id block.DiskID) (*block.Set, error) {
	unlock, err := s.hold()
	if err != nil {
		return nil, err
	}
	defer unlock()
	t, err := s.disk(id)
	if err != nil {
		return nil, err
	}
	if s.suspect(t) {
		return block.NewSet(block.Extent{Len: t.Size}), nil
	}
	return t.dirty.set(), nil
}

func (s *source) MarkDirty(id block.DiskID, doubt *block.Set) error {
	unlock, err := s.hold()
	if err != nil {
		return err
	}
	defer unlock()
	t, err := s.disk(id)
	if err != nil {
		return err
	}
	for e := range doubt.All() {
		t.dirty.mark(s.generation(), e.Intersect(block.Extent{Len: t.Size}))
	}
	return nil
}

// suspect: everything on the disk is in doubt.
func (s *source) suspect(t *tracked) bool {
	d := &s.disks[t.slot]
	return atomic.LoadUint64(&d.Suspect[0]) != 0 || atomic.LoadUint64(&d.Suspect[1]) != 0
}

func (s *source) ForgetDirty() error {
	unlock, err := s.hold()
	if err != nil {
		return err
	}
	defer unlock()
	// What was lost since arming may lie in the retained generation, and no record
	// ever tells.
	if s.broken() {
		s.retain()
		return nil
	}
	s.forget()
	return nil
}

func (s *source) forget() {
	if s.nothingRetained {
		return
	}
	old := 1 - s.generation()
	for _, t := range s.tracked {
		t.dirty.clear(old)
		atomic.StoreUint64(&s.disks[t.slot].Suspect[old], 0)
	}
	s.nothingRetained = true
}

func (s *source) RetainDirty() error {
	unlock, err := s.hold()
	if err != nil {
		return err
	}
	defer unlock()
	s.retain()
	return nil
}

// retain merges the old generation into the current one and empties it. A crash in
// between leaves more in doubt than there is, never less.
func (s *source) retain() {
	if s.nothingRetained {
		return
	}
	old := 1 - s.generation()
	for _, t := range s.tracked {
		t.dirty.merge(old)
		d := &s.disks[t.slot]
		atomic.AddUint64(&d.Suspect[1-old], atomic.LoadUint64(&d.Suspect[old]))
	}
	s.forget()
}
