// Package journal keeps the frames of a machine's log until the relay has them, and
// the little the agent must remember of itself.
//
// Frames wait in memory: a ring in a mapped file of a memory file system, which
// survives kill -9. A frame for which that has no room goes to the disk stage, a
// preallocated ring on a disk; when that has none either, Append gives ErrFull and
// the pipeline falls back to the dirty map.
//
// It is the newest frame that goes to the disk, and frames never move: the older ones
// stay where they are, and as soon as the memory stage has room again new frames use
// it, whatever still lies on the disk. So memory is always used first, the disk sees
// each frame once, in sequence, and only those memory could not hold, and what Next
// handed out stays in its place until it is released. The index knows in which stage a
// sequence number lies; each stage by itself is a ring in ascending order.
package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/hrl"
)

// Errors of a journal.
var (
	// ErrFull says that neither stage has room. Nothing was stored: the writes in the
	// frame are to be taken from the dirty map.
	ErrFull = errors.New("journal: memory and disk stage are full")
	// ErrTooLarge is an ErrFull that release will not cure: the frame would not fit into
	// an empty stage either.
	ErrTooLarge = errors.New("journal: frame larger than either stage")
	// ErrGap says that no retained frame begins after the number asked for, and none
	// ever will: what follows it was released, lost, or never was.
	ErrGap = errors.New("journal: no frame continues there")
	// ErrOrder says that a frame does not continue the one before.
	ErrOrder = errors.New("journal: frame out of sequence")
	// ErrDamaged says that a disk gave other bytes than were written. The frame is lost.
	ErrDamaged = errors.New("journal: frame damaged on disk")
	// ErrClosed says that the journal takes no more frames.
	ErrClosed = errors.New("journal: closed")
)

// item is a retained frame and where it lies.
type item struct {
	hrl.Entry
	ring   *hrl.Ring
	closed time.Time
}

// Journal is an open journal. Append is for one goroutine at a time; everything else
// may be called at any time by any.
type Journal struct {
	log    *slog.Logger
	memory *hrl.Ring
	spill  *hrl.Ring // nil without a disk stage
	files  hrl.Files
	boot   bootID
	place  string // digest of where the disk stage lay at Open; empty where that cannot be told
	blocks string // the same without the disk's number

	appending sync.Mutex // held by Append over its disk write; before mu

	mu     sync.Mutex
	items  []item // retained, ascending, without gaps
	last   block.Seq
	mark   hrl.Mark
	lent   bool // a frame of the memory stage was handed out
	more   chan struct{}
	state  State
	closed bool      // takes no more frames
	held   bool      // nothing is written to the disk stage
	owed   block.Seq // released while held
	shut   bool      // gives none either

	spilled int64 // for Stats
	refused int64
}

// Append stores an encoded log or mark frame and the capture position after it. Once
// it returns, both survive the process, and the position may be given free.
func (j *Journal) Append(raw []byte, ringPos uint64) error {
	h, err := frame.ParseHeader(raw)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if h.Kind == frame.KindBase || h.Size() != len(raw) {
		return fmt.Errorf("journal: a %s frame of %d bytes (its header says %d) does not belong here", h.Kind, len(raw), h.Size())
	}
	j.appending.Lock()
	defer j.appending.Unlock()
	if err := j.admit(h); err != nil {
		return err
	}
	it, err := j.store(h, raw, ringPos)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.items = append(j.items, it)
	j.last = it.Last
	close(j.more)
	j.more = make(chan struct{})
	return nil
}

// admit checks that the frame continues the log. The first frame of an empty journal
// may begin anywhere; where, is written down, so that recovery can tell a first frame
// that was lost.
func (j *Journal) admit(h frame.Header) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.closed:
		return ErrClosed
	case j.last == 0:
		j.setMark(hrl.Mark{Seq: h.First - 1})
	case h.First != j.last+1:
		return fmt.Errorf("%w: frame [%d..%d] after %d", ErrOrder, h.First, h.Last, j.last)
	}
	return nil
}

func (j *Journal) store(h frame.Header, raw []byte, ringPos uint64) (item, error) {
	it := item{ring: j.memory, closed: h.Closed}
	e, err := j.memory.Append(h.First, h.Last, ringPos, raw)
	if j.spill != nil && !j.holding() && (errors.Is(err, hrl.ErrFull) || errors.Is(err, hrl.ErrTooLarge)) {
		it.ring = j.spill
		e, err = j.spill.Append(h.First, h.Last, ringPos, raw)
	}
	it.Entry = e
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case err == nil && it.ring == j.spill:
		j.spilled += int64(len(raw))
	case errors.Is(err, hrl.ErrFull):
		j.refused++
		err = ErrFull
	case errors.Is(err, hrl.ErrTooLarge):
		j.refused++
		err = fmt.Errorf("%w: %w: %d bytes", ErrFull, ErrTooLarge, len(raw))
	case err != nil: // the disk failed: for the caller the same as no room
		j.refused++
		err = fmt.Errorf("%w: the disk stage %s cannot be written: %w", ErrFull, it.ring.Path(), err)
	}
	return it, err
}

// Next returns the frame that begins after the given number; where that is not yet
// appended it waits until it is, the journal is closed, or the context ends. A frame
// of the memory stage is the stage's own memory: it must not be changed, and must not
// be looked at any more once Release has covered it. A frame of the disk stage is the
// caller's. Bytes of the memory stage are not checked again.
func (j *Journal) Next(ctx context.Context, after block.Seq) ([]byte, error) {
	for {
		it, more, err := j.find(after)
		if err != nil {
			return nil, err
		}
		if more == nil {
			return it.read()
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// find gives the frame after the number, or what to wait for.
func (j *Journal) find(after block.Seq) (item, <-chan struct{}, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if waits := j.last == 0 || after == j.last; j.shut || waits && j.closed {
		return item{}, nil, ErrClosed
	} else if waits {
		return item{}, j.more, nil
	}
	i := sort.Search(len(j.items), func(i int) bool { return j.items[i].First > after })
	if i == len(j.items) || j.items[i].First != after+1 {
		return item{}, nil, fmt.Errorf("%w: asked for what follows %d, retained is %s", ErrGap, after, j.span())
	}
	if it := j.items[i]; it.ring == j.memory {
		j.lent = true
	}
	return j.items[i], nil, nil
}

// span names the retained frames for a message.
func (j *Journal) span() string {
	if len(j.items) == 0 {
		return fmt.Sprintf("nothing up to %d", j.last)
	}
	return fmt.Sprintf("%d..%d", j.items[0].First, j.last)
}

func (it item) read() ([]byte, error) {
	b, err := it.ring.Read(it.Entry)
	switch {
	case err == nil:
		return b, nil
	case errors.Is(err, hrl.ErrGone):
		return nil, fmt.Errorf("%w: frame [%d..%d] was released meanwhile", ErrGap, it.First, it.Last)
	}
	return nil, fmt.Errorf("%w: frame [%d..%d]: %w", ErrDamaged, it.First, it.Last, err)
}

// Release drops every frame that ends at or before the number: the relay has it on
// stable storage.
func (j *Journal) Release(upto block.Seq) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.held {
		j.owed = max(j.owed, upto)
		return
	}
	n := sort.Search(len(j.items), func(i int) bool { return j.items[i].Last > upto })
	if n == 0 {
		return
	}
	newest := &j.items[n-1]
	j.setMark(hrl.Mark{Seq: newest.Last, RingPos: newest.RingPos, Closed: nanos(newest.closing())})
	j.items = j.items[n:]
}

// Hold keeps the journal off its disk stage from its return until Resume: the file system
// there may be frozen, and who writes to it waits. A frame that memory has no room for is
// refused meanwhile, and nothing is released.
func (j *Journal) Hold() {
	j.appending.Lock()
	defer j.appending.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.held = true
}

// Resume ends Hold.
func (j *Journal) Resume() {
	j.mu.Lock()
	owed := j.owed
	j.held, j.owed = false, 0
	j.mu.Unlock()
	if owed > 0 {
		j.Release(owed)
	}
}

func (j *Journal) holding() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.held
}

// setMark tells both stages what is no longer needed. That this cannot be written
// down costs nothing but a longer recovery.
func (j *Journal) setMark(m hrl.Mark) {
	j.mark = m
	for _, r := range j.rings() {
		if err := r.Release(m); err != nil {
			j.log.Error("journal cannot write its anchor", "path", r.Path(), "err", err)
		}
	}
}

func (j *Journal) rings() []*hrl.Ring {
	if j.spill == nil {
		return []*hrl.Ring{j.memory}
	}
	return []*hrl.Ring{j.memory, j.spill}
}

// Reset drops every frame; the next one must begin after last, or anywhere if last is
// zero. closed is the closing time of the frame that ends there, zero if it is not known.
// It is for the begin of an epoch that does not continue what is retained.
func (j *Journal) Reset(last block.Seq, closed time.Time) {
	j.appending.Lock()
	defer j.appending.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.setMark(hrl.Mark{Seq: max(j.last, last)}) // releases whatever lies there
	j.setMark(hrl.Mark{Seq: last, Closed: nanos(closed)})
	j.items, j.last = nil, last
	close(j.more)
	j.more = make(chan struct{})
}

// Closing is the closing time of the frame that ends at this number: a retained one, or
// the last that was released, which is remembered over the process's death. False if none
// does, or it is not known.
func (j *Journal) Closing(last block.Seq) (time.Time, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if last == j.mark.Seq && j.mark.Closed != 0 {
		return time.Unix(0, j.mark.Closed), true
	}
	i := sort.Search(len(j.items), func(i int) bool { return j.items[i].Last >= last })
	if i == len(j.items) || j.items[i].Last != last {
		return time.Time{}, false
	}
	return j.items[i].closing(), true
}

// Stats is what a journal holds and has done since it was opened.
type Stats struct {
	MemoryBytes, MemorySize int64     // used and available in the memory stage
	SpillBytes, SpillSize   int64     // used and available in the disk stage
	Frames                  int       // retained
	First, Last             block.Seq // retained; First is zero if none is
	Oldest                  time.Time // closing time of the oldest retained frame; zero if none
	SpilledBytes            int64     // appended to the disk stage
	Refused                 int64     // frames answered with ErrFull
	Syncs                   int64     // of the disk stage
	SyncTime                time.Duration
}

// Stats tells what the journal holds.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	m := j.memory.Usage()
	s := Stats{
		MemoryBytes: m.Used, MemorySize: m.Size,
		Frames: len(j.items), Last: j.last,
		SpilledBytes: j.spilled, Refused: j.refused,
	}
	if j.spill != nil {
		u := j.spill.Usage()
		s.SpillBytes, s.SpillSize, s.Syncs, s.SyncTime = u.Used, u.Size, u.Syncs, u.SyncTime
	}
	if len(j.items) > 0 {
		s.First, s.Oldest = j.items[0].First, j.items[0].closing()
	}
	return s
}

// closing is the frame's closing time; of a recovered one it is read when first asked for.
func (it *item) closing() time.Time {
	if it.closed.IsZero() {
		if b, err := it.read(); err == nil {
			if h, err := frame.ParseHeader(b); err == nil {
				it.closed = h.Closed
			}
		}
	}
	return it.closed
}

// Close closes the files and wakes whoever waits in Next. The memory stage stays mapped
// if ever a frame of it was handed out: somebody may still be sending one that was
// meanwhile released.
func (j *Journal) Close() error {
	j.appending.Lock()
	defer j.appending.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.shut {
		return nil
	}
	j.stop()
	j.shut = true
	var err error
	if j.spill != nil {
		err = j.spill.Close()
	}
	if j.lent {
		return errors.Join(err, j.memory.Abandon())
	}
	return errors.Join(err, j.memory.Close())
}

// stop ends appending and wakes those who wait for more.
func (j *Journal) stop() {
	j.closed = true
	close(j.more)
	j.more = make(chan struct{})
}

// nanos is a time as the anchor keeps it.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
