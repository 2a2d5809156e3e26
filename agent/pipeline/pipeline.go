// Package pipeline joins capture, consistency, journal, resync and ship for one machine: it is the
// only place that does, and the only one that knows the machine's state.
//
// One goroutine, the consumer, owns the log: it takes records from the ring, cuts
// them into frames, numbers them, stores them in the journal and lets the ring go on.
// Everything else that concerns the log (acknowledgements, a relay's welcome, a
// finished copy, a changed wish of the control plane) is posted to it as a function.
//
// # The life of an epoch
//
//  1. A doubt arises (doubt.go): the first protection, a lost record, a full journal,
//     a relay without its spool, a resize, an operator's wish. Capture falls back to
//     the dirty map, by itself where the kernel saw the doubt first.
//  2. When the relay's position is known and the journal has room, capture is armed
//     again; what the ring still held is covered by the dirty maps.
//  3. The dirty maps are retained as the doubt, and an epoch-begin mark names it.
//  4. Behind the in-flight barrier the copies run while records flow (copies.go).
//  5. When their last frame is spooled and every record captured until then is in the
//     log, the base-complete mark follows: from here on every frame is a point.
//  6. When the vault has that mark, the retained dirty maps are forgotten.
//
// # Proofs
//
// In the steady state a proof may run beside the log (prove.go): agent/resync compares
// disks with the vault, and the consumer is its witness of what is written meanwhile
// (witness.go). A difference is marked dirty in the kernel, written down as an epoch that
// has not begun, and raised as a doubt: the next epoch repairs it, also after a crash of
// the agent. A proof is broken off by every doubt and goes on where it was.
//
// # Points
//
// In the steady state every frame is a crash-consistent point. One that is asked for, or
// that the policy wants application-consistent, is marked (point.go): agent/consistency
// makes the machine quiet in a goroutine of its own, and the consumer takes the ring to
// its end, asks whether all is still frozen, and stores the mark.
package pipeline

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/consistency"
	"github.com/understudy-dr/understudy/agent/journal"
	"github.com/understudy-dr/understudy/agent/resync"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// pollEvery is how often the ring is looked at while much is written: wakeups from the
// kernel cost more than half of the throughput, two milliseconds of latency cost nothing.
// Else it is left alone for up to pollSlack times as long (see capture.Pauses).
const (
	pollEvery = 2 * time.Millisecond
	pollSlack = 5
)

// dozeFor is how long an empty ring is left alone at most, which wakes the pipeline when it
// is one no more. Each awakening costs an idle machine more than what it is for.
const dozeFor = publishEvery

// resumeBelow is how empty the journal must be before a new epoch begins: one begun
// in a full journal would only fill it again.
const resumeBelow = 0.5

// Config is what a pipeline joins.
type Config struct {
	Machine block.MachineID
	Log     *slog.Logger
	Source  capture.Source
	Journal *journal.Journal
	Relay   Relay
	// State and Recovered are what the journal holds of the last run, Resume what
	// capture found of it in the kernel.
	State     State
	Recovered journal.Recovered
	Resume    capture.Resume
	// Events takes what an operator should see.
	Events func(desired.Event)
	// Scan says that the source sees no write but only that there was one (see scan.go).
	Scan bool
	// Quiesce makes the machine quiet for application-consistent points; Hush is the log's
	// way out, which waits meanwhile (nil: it never does), and Late are paths of the agent's
	// own (see consistency.Job).
	Quiesce Quiescer
	Hush    *consistency.Hush
	Late    []string
	// PowerOff reports what Status shows and switches the machine off; it returns only if
	// the machine goes on. Nil: that is not possible.
	PowerOff func(ctx context.Context) error
	// Open opens a disk for the copies to read; nil opens the device.
	Open func(resync.Target) (resync.Device, error)
	// Now is the wall clock; nil is time.Now.
	Now func() time.Time
	// Poll is how often a busy ring is looked at; Frame closes a frame by size, bytes.
	// Zero means the defaults.
	Poll  time.Duration
	Frame int
}

// Pipeline is one machine's log in the making.
type Pipeline struct {
	Config
	calls chan func() error
	w     *writer
	gens  generations

	phase   desired.Phase
	doubt   *doubt      // why the log cannot go on; nil while it does
	known   bool        // the relay's position is known and agreed with
	heard   block.Epoch // the newest that a relay has anything of
	damaged error       // what the journal cannot give any more
	wished  desired.State
	asked   time.Time // when the point that is wanted was first heard of
	disks   map[block.DiskID]*disk
	more    bool // the record taken last goes on in the next one

	where  func() (path string, dev uint64, extents []block.Extent, err error) // the journal's disk stage
	hidden bool                                                                // it is left out of a disk
	placed time.Time                                                           // when it was last looked for

	spooled, committed block.Seq
	base               baseline
	waiters            []waiter
	copying            *copying
	closing            *closing
	retryAt            time.Time // when a failed copy is tried again
	dispute            dispute
	throttle           atomic.Int64
	verifyRate         atomic.Int64

	watches  []*watch    // of the running proof's tries
	drains   uint64      // polls that left nothing in the ring that was there when they began
	proving  *proving    // the running proof; nil while there is none
	provedAt time.Time   // when a broken-off proof is taken up again
	making   *making     // the point being made; nil while there is none
	cutting  *cut        // its place in the log, wanted now; nil if none is
	cutAt    time.Time   // when a point that came to nothing is tried again
	holding  atomic.Bool // the journal's disk stage may be frozen
	scanning *scan       // the running scan; nil while there is none
	scanAt   time.Time   // not before

	seen     time.Time // every write acknowledged before it has been taken from the ring
	clock    clock
	pressed  bool   // an eighth of the ring was not taken when the last frame was closed
	ring     uint64 // its size, bytes; zero until the first frame is closed
	pauses   capture.Pauses
	captured int64
	paused   int64 // captured when the last pause began
	rate     rate
	status   atomic.Pointer[desired.Protection]
	epochsMu sync.Mutex
	epochs   map[frame.Reason]int // begun since the agent started
}

// Relay is what the pipeline asks of the connection to the relay.
type Relay interface {
	resync.Hasher
	resync.Prover
	// SendBase queues base frame n of the epoch that raw belongs to, and keeps nothing of
	// raw. It blocks while there is no relay and while too many wait. With each Welcome
	// the queue is forgotten: copies begin again behind what is spooled.
	SendBase(ctx context.Context, raw []byte, n uint64) error
	// FlushBase returns when every base frame handed to SendBase is spooled.
	FlushBase(ctx context.Context) error
}

// disk is one disk that shall be protected.
type disk struct {
	capture.Disk
	problem error // why it is not tracked; nil where it is
}

// New makes a pipeline; Run lets it work.
func New(c Config) *Pipeline {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Poll == 0 {
		c.Poll = pollEvery
	}
	p := &Pipeline{
		Config: c, calls: make(chan func() error, 64), w: newWriter(c.Machine, c.Journal),
		gens: generations{maps: c.Source}, where: c.Journal.SpillExtents, disks: map[block.DiskID]*disk{}, phase: desired.PhaseEnabling,
		epochs: map[frame.Reason]int{},
	}
	p.pauses = capture.Pauses{Least: c.Poll, Most: pollSlack * c.Poll}
	if c.Scan {
		p.pauses = capture.Pauses{Least: scanPoll, Most: scanPoll}
	}
	if c.Frame > 0 {
		p.w.target = c.Frame
	}
	p.State.Machine = c.Machine
	p.spooled, p.committed = c.Recovered.Released, c.Recovered.State.Committed
	p.publish(c.Now())
	return p
}

// post has f run by the consumer. An error of f ends the pipeline.
func (p *Pipeline) post(ctx context.Context, f func() error) {
	select {
	case p.calls <- f:
	case <-ctx.Done():
	}
}

// call is post that waits for the outcome of f.
func (p *Pipeline) call(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	p.post(ctx, func() error { done <- f(); return nil })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run works until ctx ends. It leaves the capture armed and pinned: the kernel goes
// on recording while no agent runs.
func (p *Pipeline) Run(ctx context.Context) error {
	if err := p.start(ctx); err != nil {
		return err
	}
	defer p.stopCopies()
	defer p.stopProof()
	defer p.stopPoint()
	defer p.stopScan()
	for {
		busy, err := p.step(ctx)
		if err != nil {
			return err
		}
		if stop, err := p.wait(ctx, busy); stop || err != nil {
			return err
		}
	}
}

var now = func() <-chan time.Time { c := make(chan time.Time); close(c); return c }()

// wait runs what was posted, until the next poll is due; at once after one that left
// something to take.
func (p *Pipeline) wait(ctx context.Context, busy bool) (stop bool, err error) {
	next := now
	var woken <-chan struct{}
	if !busy {
		pause := p.pauses.Next(p.captured-p.paused, p.ring)
		if p.paused == p.captured && p.quiet() {
			woken = p.Source.Doze()
		}
		if woken != nil {
			pause = max(pause, min(dozeFor, p.w.tickDue(p.Now())))
		}
		next = time.After(pause)
		p.paused = p.captured
	}
	for {
		select {
		case <-ctx.Done():
			return true, p.flush()
		case f := <-p.calls:
			if err := f(); err != nil {
				return true, err
			}
			if woken != nil {
				return false, nil // there may be something to do by now
			}
		case <-woken:
			return false, nil
		case <-next:
			return false, nil
		}
	}
}

// quiet reports whether nothing goes on that asks for a look at the ring.
func (p *Pipeline) quiet() bool {
	return p.phase == desired.PhaseSteady && p.doubt == nil && !p.w.open() &&
		p.making == nil && p.cutting == nil && p.proving == nil && p.copying == nil && len(p.watches) == 0
}

// start takes up what an earlier process left, or names why it cannot.
func (p *Pipeline) start(ctx context.Context) error {
	armed, goesOn := p.Source.Armed()
	fresh := p.fresh(armed)
	if fresh {
		if err := p.dropUnknown(); err != nil {
			return err
		}
	}
	for _, d := range p.Source.Disks() {
		p.disks[d.ID] = &disk{Disk: d}
		// The kernel knows the journal's place of the last run: it may be another's now.
		if err := p.exclude(d); err != nil {
			return fmt.Errorf("pipeline: machine %s: disk %s (%s): %w", p.Machine, d.Name, d.Path, err)
		}
	}
	at := block.Position{Epoch: p.State.Epoch, Seq: max(p.Recovered.Last, p.Recovered.Released)}
	p.w.resume(at, p.State.position(at, p.Recovered.RingPos), p.Now())
	var gap *doubt
	if fresh && p.State.Epoch > 0 {
		var err error
		if gap, err = p.afterReboot(); err != nil {
			return err
		}
	}
	switch {
	case p.State.Epoch == 0:
		return nil // never protected, or no memory of it: the relay will tell
	case gap != nil:
		p.raise(*gap)
	case !p.Resume.Intact || !p.Recovered.SameBoot && !fresh || armed.Ring != p.State.Stretch.Ring:
		// Of another ring, capture may be intact and not the log's: an agent that ended
		// before it could say so began it anew.
		p.raise(p.unclean())
	case p.Recovered.Moved:
		p.raise(doubt{reason: frame.ReasonDeviceChanged, detail: "the journal's disk stage moved: writes to its old place were excluded from capture", whole: p.all()})
	case p.State.Doubt != nil:
		p.raise(doubt{reason: p.State.Doubt.Reason, detail: "the agent stopped before the epoch began", whole: p.State.interrupted()})
	case p.State.Began > at.Seq:
		p.raise(doubt{reason: p.State.Reason, detail: "the agent stopped before the epoch began", whole: p.State.interrupted()})
	case !goesOn || armed.Generation != p.State.Stretch.Generation || armed.Ring != p.State.Stretch.Ring:
		p.raiseLoss()
	case len(p.strangers()) > 0:
		p.raise(doubt{reason: frame.ReasonDiskAdded, detail: "the agent stopped before the epoch with a new disk began", whole: p.strangers()})
	default:
		return p.goOn(ctx)
	}
	return nil
}

// strangers are disks that are tracked and not of the epoch.
func (p *Pipeline) strangers() map[block.DiskID]bool {
	found := map[block.DiskID]bool{}
	for id := range p.disks {
		if !slices.Contains(p.State.Disks, id) {
			found[id] = true
		}
	}
	return found
}

// goOn continues the epoch of the last run.
func (p *Pipeline) goOn(ctx context.Context) error {
	if err := p.Source.Advance(p.w.ringPos); err != nil {
		return fmt.Errorf("pipeline: machine %s: taking up the ring: %w", p.Machine, err)
	}
	// The retained maps stand for records that may still lie unread in the ring: they,
	// and the current ones with them, are kept until all of those are committed.
	pos, err := p.Source.SwapDirty(ctx)
	if err != nil {
		return fmt.Errorf("pipeline: machine %s: taking up the dirty maps: %w", p.Machine, err)
	}
	p.gens.hold(p.Now())
	if p.State.Complete > p.w.at.Seq { // intended, not done: the frames are all spooled
		p.State.Complete, p.State.Copy, p.State.Cursor = 0, len(p.State.Copies), resync.Cursor{}
		// Before a frame takes that number: the next agent would hold it for the mark.
		if err := p.save(); err != nil {
			return err
		}
	}
	if p.phase = desired.PhaseBase; p.State.Complete > 0 {
		p.phase = desired.PhaseSteady
		p.gens.retain(pos, p.Now())
	}
	p.Log.InfoContext(ctx, "resumed", "epoch", p.State.Epoch, "position", p.w.at, "phase", p.phase)
	return nil
}

// step does one round of work and reports whether there is more to do at once.
func (p *Pipeline) step(ctx context.Context) (busy bool, err error) {
	now := p.Now()
	p.clock.check(now, p.event)
	if err := p.checkPlace(now); err != nil {
		return false, err
	}
	switch {
	case len(p.disks) == 0:
		p.phase = desired.PhaseEnabling
	case p.doubt != nil && p.Scan:
		p.phase = desired.PhaseScan
		err = p.scanOn(ctx, now)
	case p.doubt != nil:
		p.phase = desired.PhaseMapOnly
		err = p.begin(ctx, now)
	case p.roughly():
		p.startCopies(ctx)
	case p.capturing() && p.cramped():
		// Nothing is taken until the disk stage may be written to again.
	case p.capturing():
		busy, err = p.take(now)
		if err == nil && p.doubt == nil {
			if err := p.closeBase(now); err != nil {
				return busy, err
			}
			p.gens.rotate(ctx, now, func(f func() error) { p.post(ctx, f) })
			p.startCopies(ctx)
			p.settleScan()
			p.settleWatches()
			p.startProof(ctx)
			p.startPoint(ctx)
			if err := p.settleCut(now); err != nil {
				return busy, err
			}
		}
	}
	if p.rate.due(now) {
		p.publish(now)
	}
	return busy, err
}

func (p *Pipeline) capturing() bool {
	return p.phase == desired.PhaseBase || p.phase == desired.PhaseSteady
}
