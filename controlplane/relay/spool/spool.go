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
	// maxQueue bounds the frames that wait for their write: memory of the relay.
	maxQueue = 128 << 20
	// maxBatch bounds one group's bytes, so that no acknowledgement waits for more.
	maxBatch = 32 << 20
	// retryAfter is the pause before a failed write is tried again.
	retryAfter = time.Second
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
	// Trouble is told when writing begins to fail, and with nil when it works again.
	Trouble func(error)
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
	dir  string
	opts Options
	room *semaphore.Weighted // of the queue, bytes

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
	failed   bool     // Trouble was reported
	closing  bool

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
// durable, in the order of the calls, or with ErrClosed. raw belongs to the spool
// until then.
func (s *Spool) Append(raw []byte, e *Entry, done func(error)) {
	s.mu.Lock()
	closing := s.closing
	if !closing {
		s.queue = append(s.queue, pending{raw, e, done})
	}
	s.mu.Unlock()
	if closing {
		s.room.Release(int64(len(raw)))
		done(ErrClosed)
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

// run is the writer: the only one that touches the active segment.
func (s *Spool) run() {
	defer s.wg.Done()
	for {
		batch := s.take()
		if len(batch) == 0 {
			select {
			case <-s.wake:
				continue
			case <-s.stop:
				return
			}
		}
		s.store(batch)
	}
}

// take removes the next group from the queue.
func (s *Spool) take() []pending {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, bytes := 0, 0
	for n < len(s.queue) && (n == 0 || bytes+len(s.queue[n].raw) <= maxBatch) {
		bytes += len(s.queue[n].raw)
		n++
	}
	batch := s.queue[:n:n]
	if s.queue = s.queue[n:]; len(s.queue) == 0 {
		s.queue = nil
	}
	return batch
}

// store makes a group durable, trying again for as long as it takes.
func (s *Spool) store(batch []pending) {
	for len(batch) > 0 {
		n, err := s.attempt(batch)
		for _, p := range batch[:n] {
			s.room.Release(int64(len(p.raw)))
			p.done(nil)
		}
		batch = batch[n:]
		if s.report(err); err != nil && !s.pause() {
			break
		}
	}
	for _, p := range batch {
		s.room.Release(int64(len(p.raw)))
		p.done(ErrClosed)
	}
}

// report tells of the first failure in a row, and of the first success after it.
func (s *Spool) report(err error) {
	s.mu.Lock()
	changed := s.failed != (err != nil)
	s.failed = err != nil
	s.mu.Unlock()
	if changed && s.opts.Trouble != nil {
		s.opts.Trouble(err)
	}
}

// pause waits until a retry makes sense; false means that the spool is closing.
func (s *Spool) pause() bool {
	t := time.NewTimer(retryAfter)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.wake:
		// Either something was freed, or more was queued: cheap to find out, but not
		// in a tight loop.
		select {
		case <-time.After(retryAfter / 20):
		case <-s.stop:
			return false
		}
	case <-s.stop:
		return false
	}
	return true
}

// attempt writes and syncs as many frames as the active segment takes and returns how
// many became durable.
func (s *Spool) attempt(batch []pending) (int, error) {
	if s.active == nil || !s.active.fits(len(batch[0].raw)) {
		if err := s.rotate(); err != nil {
			return 0, err
		}
	}
	n := 0
	var frames [][]byte
	for room := s.active.room(); n < len(batch); n++ {
		if room -= entrySize(len(batch[n].raw)); room < 0 {
			break
		}
		frames = append(frames, batch[n].raw)
	}
	at, err := s.persist(frames)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	for i, p := range batch[:n] {
		s.place(p.entry, s.active, at[i])
	}
	s.left = s.active.room()
	s.mu.Unlock()
	return n, nil
}

// place makes an entry live at a durable place. Spool.mu is held.
func (s *Spool) place(e *Entry, seg *segment, off int64) {
	e.seg, e.off = seg, off
	s.entries[e] = struct{}{}
	seg.live++
	seg.liveBytes += int64(e.Size)
	s.live += int64(e.Size)
}

// persist writes and syncs. A segment that failed is never written again: after a
// failed fsync nobody knows what the kernel still means to write.
func (s *Spool) persist(frames [][]byte) ([]int64, error) {
	start, before := time.Now(), s.active.used
	at, err := s.active.write(frames)
	if err == nil {
		err = syncData(s.active.file)
	}
	if err != nil {
		s.retire(before)
		return nil, err
	}
	if s.opts.Synced != nil {
		s.opts.Synced(time.Since(start), len(frames), s.active.used-before)
	}
	return at, nil
}

// retire ends the active segment behind its last synced byte. Should that fail, too, a
// restart finds a segment without an end, and perhaps entries that were never
// acknowledged: it names damage where there is none, and loses nothing.
func (s *Spool) retire(end int64) {
	s.mu.Lock()
	seg := s.active
	s.active, s.left = nil, 0
	s.mu.Unlock()
	if err := seg.end(end); err != nil {
		s.opts.Log.Warn("spool segment not ended", "path", seg.path, "err", err)
	}
}

// Read returns the frame of a live entry in dst, grown where it must.
func (s *Spool) Read(e *Entry, dst []byte) ([]byte, error) {
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

// free takes entries out of the accounts. Spool.mu is held.
func (s *Spool) free(entries ...*Entry) {
	for _, e := range entries {
		if e.seg == nil {
			continue
		}
		e.seg.live--
		e.seg.liveBytes -= int64(e.Size)
		s.live -= int64(e.Size)
		e.seg = nil
		delete(s.entries, e)
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
		s.room.Release(int64(len(p.raw)))
		p.done(ErrClosed)
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
