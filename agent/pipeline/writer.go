package pipeline

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

const (
	// frameTarget closes a frame by size: large enough that the cost of a frame (a
	// header, a checksum call, an acknowledgement) vanishes, small enough that a frame
	// is sent while the next one is filled.
	frameTarget = 1 << 20
	// frameAge closes a frame by time. It is the smallest part of the RPO; below it
	// frames of a quiet machine would be mostly header.
	frameAge = 200 * time.Millisecond
	// tickEvery is how often an idle machine says that it is watched.
	tickEvery = time.Second
	// maxDisorder is how far a record's time may be before that of one ahead of it in the
	// ring: its processor was taken away between the clock's reading and the ring. More is a
	// clock that was set back, and the frame's time follows it.
	maxDisorder = 100 * time.Millisecond
)

// Store is where closed frames go: the journal.
type Store interface {
	Append(raw []byte, ringPos uint64) error
}

// writer cuts the stream of records into frames and numbers them. It belongs to the
// pipeline's one consumer goroutine.
type writer struct {
	machine block.MachineID
	store   Store
	target  int // closes a frame by size, bytes
	b       *frame.Builder
	buf     []byte // for ticks and marks

	at      block.Position                 // of the last frame in the store
	shown   atomic.Pointer[block.Position] // the same, for other goroutines
	opened  time.Time                      // of the frame being filled; zero when there is none
	newest  time.Time                      // time of the newest record in it
	ringPos uint64                         // behind the last record taken
	reached time.Time                      // time of the last frame in the store
	closed  time.Time                      // when that was closed
}

func newWriter(machine block.MachineID, store Store) *writer {
	return &writer{machine: machine, store: store, target: frameTarget, b: frame.NewBuilder(machine)}
}

// resume continues behind this position.
func (w *writer) resume(at block.Position, ringPos uint64, now time.Time) {
	w.at, w.ringPos, w.opened, w.closed = at, ringPos, time.Time{}, now
	w.shown.Store(&at)
}

// full reports whether the frame must be closed before a record with n bytes of data;
// ripe whether it has its size.
func (w *writer) full(n int) bool { return !w.b.Room(n) }
func (w *writer) ripe() bool      { return w.b.Len() >= w.target }

// add takes one record at this moment. The caller has asked full.
func (w *writer) add(r capture.Record, now time.Time) error {
	if !w.open() {
		w.opened, w.newest = now, r.At
		w.b.Reset(frame.KindLog, w.at.Epoch, w.at.Seq+1, r.At)
	}
	if r.At.After(w.newest) || w.newest.Sub(r.At) > maxDisorder {
		w.newest = r.At
	}
	w.ringPos = r.Pos
	return w.b.Add(r.Disk, r.Op, r.Extent, r.Data)
}

// open reports whether a frame is being filled; due whether it should be closed now.
func (w *writer) open() bool { return !w.opened.IsZero() }

func (w *writer) due(now time.Time) bool {
	return w.open() && (w.ripe() || now.Sub(w.opened) >= frameAge || now.Before(w.opened))
}

// close ends the frame being filled and stores it. After an error nothing of it is in
// the log, and the position is the one before.
//
// The frame's time is a promise: every write that was acknowledged before it is in the
// log by then, and none that was begun after it. That holds at seen, before which every
// write has been taken, and at the time of any record in the frame: a write that was
// acknowledged before a record was submitted stands before it in the ring. With a ring
// full of the last seconds the time is theirs, not that of whoever reads them now. What
// was seen by a clock that was set back since is no promise any more.
func (w *writer) close(now, seen time.Time, c frame.Compression) error {
	if !w.open() {
		return nil
	}
	at := w.newest
	if !seen.Round(0).After(now.Round(0)) { // by the wall clock alone
		at = later(seen, at)
	}
	last := w.at.Seq + block.Seq(max(w.b.Records(), 1))
	raw, err := w.b.Close(last, at, c)
	w.drop()
	if err != nil {
		return err
	}
	return w.append(raw, last, at, now)
}

// drop forgets the frame being filled.
func (w *writer) drop() {
	w.opened = time.Time{}
	w.b.Reset(frame.KindLog, 0, 0, time.Time{}) // an empty one is neither full nor ripe
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// tickDue is how long it is until a tick is due: not at all where it is, or where the clock
// was set back behind the last frame.
func (w *writer) tickDue(now time.Time) time.Duration {
	if now.Before(w.closed) {
		return 0
	}
	return max(0, w.closed.Add(tickEvery).Sub(now))
}

// tick says that the machine was watched and wrote nothing. It does nothing while a
// frame is being filled or the last one is fresh. Every write before now must have
// been taken.
func (w *writer) tick(now time.Time) error {
	if w.open() || w.tickDue(now) > 0 {
		return nil
	}
	raw, err := frame.AppendTick(w.buf[:0], w.machine, w.at.Epoch, w.at.Seq+1, now)
	if err != nil {
		return err
	}
	w.buf = raw
	return w.append(raw, w.at.Seq+1, now, now)
}

var errOpenFrame = errors.New("pipeline: a mark cannot stand inside a frame")

// mark stores a mark in epoch, behind everything stored so far. Its time promises what
// that of a frame does; now is never before it.
func (w *writer) mark(epoch block.Epoch, m frame.Mark, at, now time.Time) error {
	if w.open() {
		return errOpenFrame
	}
	raw, err := frame.AppendMark(w.buf[:0], w.machine, epoch, w.at.Seq+1, at, m)
	if err != nil {
		return err
	}
	w.buf = raw
	before := w.at.Epoch
	w.at.Epoch = epoch
	if err := w.append(raw, w.at.Seq+1, at, now); err != nil {
		w.at.Epoch = before
		return err
	}
	return nil
}

func (w *writer) append(raw []byte, last block.Seq, at, now time.Time) error {
	if err := w.store.Append(raw, w.ringPos); err != nil {
		return err
	}
	w.at.Seq, w.reached, w.closed = last, at, now
	w.shown.Store(&block.Position{Epoch: w.at.Epoch, Seq: last})
	return nil
}
