// Package spool is a relay's stable storage: frames of all machines behind each other
// in segment files, made durable in groups, read back by place, freed one by one.
//
// # What is assumed about power loss
//
// A completed fdatasync survives it. Bytes written since the last one may be there in
// any part and any order. A rename survives it after its directory was synced.
//
// # What is promised
//
// An entry handed to done without an error survives power loss and kill -9 until it
// is freed. Nothing else is promised: an entry that was never handed over may come
// back after a restart, and its machine's chain takes it or drops it.
package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/understudy-dr/understudy/pkg/frame"
)

// Entry is a durable frame and what must be known of it without reading it.
type Entry struct {
	Header frame.Header
	Size   int            // of the whole frame, bytes
	Mark   frame.MarkType // marks only
	// BaseFrames is what a base-complete mark promises.
	BaseFrames uint64

	seg *segment // guarded by Spool.mu: compaction moves entries
	off int64
	raw []byte // the frame itself where there was memory for it; guarded by Spool.mu
}

// Base reports whether the entry belongs to a base and not to the log.
func (e *Entry) Base() bool { return e.Header.Kind == frame.KindBase }

func (e *Entry) position() LogPosition {
	return LogPosition{Position: e.Header.Position(), Closed: e.Header.Closed}
}

func (e *Entry) basePosition() BasePosition {
	return BasePosition{Epoch: e.Header.Epoch, N: uint64(e.Header.Last)}
}

// NewEntry describes a verified frame. m is the body of a mark and nil for others.
func NewEntry(h frame.Header, m *frame.Mark) *Entry {
	e := &Entry{Header: h, Size: h.Size()}
	if m != nil {
		e.Mark, e.BaseFrames = m.Type, m.BaseFrames
	}
	return e
}

// Limits and sizes, bytes.
const (
	DefaultSegment = 256 << 20
	MinSegment     = 2 * frame.MaxSize
	// maxQueue bounds the frames that wait for their write: memory of the relay. It is a
	// group that is being written and one that gathers meanwhile.
	maxQueue = 64 << 20
	// maxKept bounds the durable frames kept in memory until they are freed: a relay that
	// keeps up takes them from there and never reads its spool.
	maxKept = 64 << 20
)

// The troubles that a spool reports while it waits for them to pass.
var (
	ErrClosed = errors.New("spool: closed")
	ErrFull   = errors.New("spool: its limit is reached")
)

// Options shape a spool. Zero sizes mean the defaults.
type Options struct {
	Segment int64 // bytes of one file
	Limit   int64 // bytes of all files together
	// Positions yields how far every machine has come, for a new segment's head.
	Positions func() []Positions
	// Synced is told of every group: how long its write and its fdatasync took.
	Synced func(took time.Duration, frames int, bytes int64)
	// Recycle takes the memory of a frame back once the spool is done with it. It must
	// not block. Nil leaves it to the garbage collector.
	Recycle func(raw []byte)
	// Trouble is told when writing begins to fail, and with nil when it works again.
	Trouble func(error)
	Files   Files // nil for the operating system's
	Log     *slog.Logger
}

// pending is a frame on its way to the disk.
type pending struct {
	raw   []byte
	entry *Entry
	done  func(error)
}

// Spool is open storage. Its methods may be called from anywhere.
type Spool struct {
	dir   string
	opts  Options
	files Files
	room  *semaphore.Weighted // of the queue, bytes

	mu       sync.Mutex
	queue    []pending
	segments map[uint64]*segment
	entries  map[*Entry]struct{} // live
	active   *segment
	nextID   uint64
	disk     int64    // bytes of all segments
	left     int64    // bytes that still go into the active one
	spares   []string // files to use again
	live     int64    // bytes of entries not freed
	kept     int64    // bytes of memory in entries
	failed   bool     // Trouble was reported
	closing  bool

	stage []byte // the writer's: a group is put together in it

	wake chan struct{} // something was queued or freed
	stop chan struct{}
	wg   sync.WaitGroup
}

// Reserve waits for room in the queue for a frame of n bytes. It blocks while the disk
// does not keep up, at most until ctx ends. Append or Unreserve gives the room back.
func (s *Spool) Reserve(ctx context.Context, n int) error { return s.room.Acquire(ctx, int64(n)) }

// Unreserve gives back what Reserve took for a frame that is not appended after all.
func (s *Spool) Unreserve(n int) { s.room.Release(int64(n)) }

// Append queues a frame with reserved room and returns; done is called when it is
// durable, in the order of the calls, or with ErrClosed. raw belongs to the spool from
// now on.
func (s *Spool) Append(raw []byte, e *Entry, done func(error)) {
	s.mu.Lock()
	closing := s.closing
	if !closing {
		s.queue = append(s.queue, pending{raw, e, done})
	}
	s.mu.Unlock()
	if closing {
		s.settle(pending{raw, e, done}, false, ErrClosed)
		return
	}
	s.poke()
}

func (s *Spool) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Kept reports whether the entry's frame stays in memory until it is freed.
func (s *Spool) Kept(e *Entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.raw != nil
}

// Read returns the frame of a live entry: in dst, grown where it must, or where it lies
// in memory, valid until the entry is freed.
func (s *Spool) Read(e *Entry, dst []byte) ([]byte, error) {
	s.mu.Lock()
	raw := e.raw
	s.mu.Unlock()
	if raw != nil {
		return raw, nil
	}
	return s.readBack(e, dst)
}

// readBack reads the frame of a live entry from its segment.
func (s *Spool) readBack(e *Entry, dst []byte) ([]byte, error) {
	if cap(dst) < e.Size {
		dst = make([]byte, e.Size)
	}
	dst = dst[:e.Size]
	for {
		seg, off := s.where(e)
		if seg == nil {
			return nil, fmt.Errorf("spool: reading frame %d..%d of machine %s: it was freed", e.Header.First, e.Header.Last, e.Header.Machine)
		}
		_, err := seg.file.ReadAt(dst, off)
		if err == nil {
			return dst, nil
		}
		if now, _ := s.where(e); now == seg {
			return nil, fmt.Errorf("spool: reading frame %d..%d of machine %s: %w", e.Header.First, e.Header.Last, e.Header.Machine, err)
		}
	}
}

func (s *Spool) where(e *Entry) (*segment, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.seg, e.off
}

// Free gives entries' room back. Freeing twice does nothing.
func (s *Spool) Free(entries ...*Entry) {
	s.mu.Lock()
	s.free(entries...)
	s.reclaim()
	s.mu.Unlock()
	s.poke()
}

// free takes entries out of the accounts and gives their memory back. Spool.mu is held.
func (s *Spool) free(entries ...*Entry) {
	for _, e := range entries {
		if e.seg == nil {
			continue
		}
		s.displace(e)
		if raw := e.raw; raw != nil {
			e.raw, s.kept = nil, s.kept-int64(cap(raw))
			s.recycle(raw)
		}
	}
}

// displace takes an entry from its place on disk. Spool.mu is held.
func (s *Spool) displace(e *Entry) {
	e.seg.live--
	e.seg.liveBytes -= int64(e.Size)
	s.live -= int64(e.Size)
	e.seg = nil
	delete(s.entries, e)
}

func (s *Spool) recycle(raw []byte) {
	if s.opts.Recycle != nil {
		s.opts.Recycle(raw)
	}
}

// Usage is a spool's state in bytes.
type Usage struct {
	Live     int64 // frames not freed
	Queued   int   // number of frames not durable yet
	Disk     int64 // all files, spares included
	Free     int64 // what still goes in before the limit
	Limit    int64
	Segments int
	Failing  bool // the last write failed
}

// Usage is the spool's state now.
func (s *Spool) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	free := s.opts.Limit - s.disk + s.left
	return Usage{Live: s.live, Queued: len(s.queue), Disk: s.disk + int64(len(s.spares))*s.opts.Segment, Free: max(free, 0), Limit: s.opts.Limit, Segments: len(s.segments), Failing: s.failed}
}

// Close ends the writer and closes the files. What was not durable gets ErrClosed.
func (s *Spool) Close() error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return nil
	}
	s.closing = true
	close(s.stop)
	left := s.queue
	s.queue = nil
	s.mu.Unlock()
	s.wg.Wait()
	for _, p := range left {
		s.settle(p, false, ErrClosed)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.active != nil {
		errs = append(errs, s.active.end(s.active.used))
	}
	for _, seg := range s.segments {
		errs = append(errs, seg.file.Close())
	}
	return errors.Join(errs...)
}
