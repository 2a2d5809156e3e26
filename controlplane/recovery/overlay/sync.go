package overlay

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// syncs joins callers of Sync: while one runs, those that come wait for the next,
// which does for all of them.
type syncs struct {
	asked atomic.Uint64

	mu     sync.Mutex // held while syncing
	done   uint64     // calls up to this are served
	broken atomic.Pointer[error]
}

// fail makes every later Sync fail. After a failed fsync the kernel may have
// dropped what it could not write: no later one can be believed.
func (s *syncs) fail(err error) { s.broken.CompareAndSwap(nil, &err) }

// Sync makes every write that has returned durable. A temporary overlay dies with
// its process, so for it there is nothing to do.
func (o *Overlay) Sync() error {
	if broken := o.syncs.broken.Load(); broken != nil {
		return *broken
	}
	if !o.kept {
		return nil
	}
	s := &o.syncs
	mine := s.asked.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done >= mine {
		return nil
	}
	serves := s.asked.Load()
	if err := o.flush(); err != nil {
		s.fail(err)
		return err
	}
	s.done = serves
	return nil
}

// flush syncs the blocks, and only then writes and syncs the bits that point at
// them. Bits set meanwhile are in the copies only if their block was written before
// the first sync began, since a block is written before its bit is set.
func (o *Overlay) flush() error {
	type page struct {
		index int
		bytes []byte
	}
	var pages []page
	for i := range o.bits.dirty {
		if o.bits.dirty[i].Swap(false) {
			pages = append(pages, page{i, o.bits.page(i)})
		}
	}
	fd := int(o.file.Fd())
	if err := unix.Fdatasync(fd); err != nil || len(pages) == 0 {
		return err
	}
	for _, p := range pages {
		if _, err := o.file.WriteAt(p.bytes, headerSize+int64(p.index)*pageBytes); err != nil {
			return err
		}
	}
	return unix.Fdatasync(fd)
}
