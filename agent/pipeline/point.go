package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/agent/consistency"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// Quiescer makes the machine quiet while a point is marked.
type Quiescer interface {
	Run(ctx context.Context, j consistency.Job, mark consistency.Mark) consistency.Outcome
}

// cutAgain is how long a point that came to nothing, because the log was interrupted,
// waits before it is tried again.
const cutAgain = time.Second

// errCramped ends an attempt: the journal would have to write to a disk that may be frozen.
var errCramped = errors.New("the journal's memory is full of frames that the relay has not taken, and its disk stage may be on a frozen file system")

// making is the making of a point in a goroutine of its own.
type making struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// cut is a place in the log that is wanted for a point: behind everything that was in the
// ring when the drains were counted.
type cut struct {
	mark    frame.PointMark
	still   func() error // asked before the mark is stored; nil: nothing is frozen
	drains  uint64
	settled atomic.Bool // by whoever came first: the consumer, or one who waits no more
	at      block.Position
	err     error
	done    chan struct{} // closed when at and err hold
}

func (c *cut) settle(at block.Position, err error) {
	c.at, c.err = at, err
	close(c.done)
}

// pointDue is the point to make now: one asked for, or the next by the policy.
func (p *Pipeline) pointDue(now time.Time) (desired.PointWish, bool) {
	wish, s := p.wished.Point, &p.State
	if wish.Once > s.Point.Once {
		return wish, true
	}
	if p.Scan {
		return wish, false // a scan's point is one already
	}
	every := time.Duration(p.wished.Policy.AppSeconds) * time.Second
	return desired.PointWish{Once: s.Point.Once, App: true}, every > 0 && now.Sub(s.Tried).Abs() >= every
}

// startPoint begins to make a point if one is due and none is being made.
func (p *Pipeline) startPoint(ctx context.Context) {
	now := p.Now()
	wish, due := p.pointDue(now)
	if !due || wish.Off && p.refuseOff(wish) || p.making != nil || p.phase != desired.PhaseSteady || p.doubt != nil || now.Before(p.cutAt) {
		return
	}
	if wish.Off {
		p.startLast(ctx, wish)
		return
	}
	p.State.Tried = now
	wish.App = wish.App && !p.Scan // what is frozen already cannot be frozen
	job := p.job(wish.Name, time.Duration(p.wished.Policy.DeadlineSeconds)*time.Second)
	p.make(ctx, func(in context.Context, m *making) func() error {
		made, o := p.makePoint(in, wish, job)
		return func() error { return p.pointEnded(m, made, o) }
	})
}

// job is how the machine is made quiet for a point of this name.
func (p *Pipeline) job(name string, deadline time.Duration) consistency.Job {
	return consistency.Job{
		Name: name, Late: p.Late, Hold: p.hold, Scripts: !p.wished.Policy.NoScripts,
		Deadline: deadline, Disks: p.numbers(),
	}
}

// make makes a point beside the log; what do returns runs in the consumer's goroutine.
func (p *Pipeline) make(ctx context.Context, do func(context.Context, *making) (ended func() error)) {
	in, cancel := context.WithCancelCause(ctx)
	m := &making{cancel: cancel, done: make(chan struct{})}
	p.making = m
	go func() {
		p.post(ctx, do(in, m))
		close(m.done)
	}()
}

// hold keeps the agent from writing to disks.
func (p *Pipeline) hold() (release func()) {
	p.Journal.Hold()
	p.holding.Store(true)
	if p.Hush != nil {
		p.Hush.Hold()
	}
	return func() {
		p.Journal.Resume()
		p.holding.Store(false)
		if p.Hush != nil {
			p.Hush.Release()
		}
	}
}

// cramped reports whether memory may not take what is in the ring while the disk stage is
// left alone. Then the attempt ends: a point is not worth a resync.
func (p *Pipeline) cramped() bool {
	if !p.holding.Load() {
		return false
	}
	s := p.Journal.Stats()
	if s.MemorySize-s.MemoryBytes > max(s.MemorySize/8, 3*int64(p.w.target)) {
		return false
	}
	p.making.cancel(errCramped)
	return true
}

// makePoint makes a point of the kind that is wanted, or a crash-consistent one that says
// why it is no better. It has no position if the log was interrupted.
func (p *Pipeline) makePoint(ctx context.Context, wish desired.PointWish, job consistency.Job) (made desired.PointState, o consistency.Outcome) {
	made = desired.PointState{Once: wish.Once, Name: wish.Name, Kind: desired.PointCrash}
	if wish.App {
		o = p.quiesce(ctx, job, func(ctx context.Context, still func() error) (err error) {
			made.At, err = p.cut(ctx, frame.PointMark{Name: wish.Name, Kind: desired.PointApp}, still)
			return err
		})
		if o.Problem == nil {
			made.Kind = desired.PointApp
			return made, o
		}
		made.Problem = clipped(o.Problem.Error(), maxProblem)
	}
	at, err := p.cut(context.WithoutCancel(ctx), frame.PointMark{Name: wish.Name, Kind: desired.PointCrash, Problem: made.Problem}, nil)
	if err != nil {
		at = block.Position{}
	}
	made.At = at
	return made, o
}

func (p *Pipeline) quiesce(ctx context.Context, job consistency.Job, mark consistency.Mark) consistency.Outcome {
	if p.Quiesce == nil {
		return consistency.Outcome{Problem: consistency.ErrUnsupported}
	}
	return p.Quiesce.Run(ctx, job, mark)
}

// cut has the consumer store a point's mark behind everything that was submitted before
// the call.
func (p *Pipeline) cut(ctx context.Context, m frame.PointMark, still func() error) (block.Position, error) {
	c := &cut{mark: m, still: still, done: make(chan struct{})}
	p.post(ctx, func() error {
		if p.phase != desired.PhaseSteady || p.doubt != nil {
			if c.settled.CompareAndSwap(false, true) {
				c.settle(block.Position{}, errUnsteady)
			}
			return nil
		}
		c.drains, p.cutting = p.drains, c
		return nil
	})
	select {
	case <-c.done:
	case <-ctx.Done():
		if c.settled.CompareAndSwap(false, true) {
			return block.Position{}, context.Cause(ctx)
		}
		<-c.done
	}
	return c.at, c.err
}

// settleCut stores the mark that is wanted, once everything before it is in the log.
func (p *Pipeline) settleCut(now time.Time) error {
	c := p.cutting
	if c == nil || p.doubt != nil || p.more || p.drains <= c.drains {
		return nil
	}
	p.cutting = nil
	if !c.settled.CompareAndSwap(false, true) {
		return nil
	}
	err := p.closeFrame(now)
	if err == nil && p.doubt == nil && c.still != nil {
		if err := c.still(); err != nil {
			c.settle(block.Position{}, err)
			return nil
		}
	}
	if err == nil && p.doubt == nil {
		m := frame.Mark{Type: frame.MarkPoint, Point: &c.mark}
		err = p.store(p.w.mark(p.State.Epoch, m, later(p.seen, p.w.reached), now))
	}
	if err != nil || p.doubt != nil {
		c.settle(block.Position{}, errUnsteady)
		return err
	}
	c.settle(p.w.at, nil)
	return nil
}

// breakCut ends the wait for a place in a log that is interrupted.
func (p *Pipeline) breakCut() {
	if c := p.cutting; c != nil && c.settled.CompareAndSwap(false, true) {
		c.settle(block.Position{}, errUnsteady)
	}
	p.cutting = nil
}

// stopPoint ends the making of a point; it returns when everything is thawed.
func (p *Pipeline) stopPoint() {
	m := p.making
	if m == nil {
		return
	}
	p.breakCut()
	m.cancel(errors.New("the agent ends"))
	for {
		select {
		case <-m.done: // not p.making's: what is called below may tell that it has ended
			p.making = nil
			return
		case f := <-p.calls: // it may wait for a cut, which nobody makes any more
			_ = f()
			p.breakCut()
		}
	}
}

// pointEnded takes down what came of it and tells the operator.
func (p *Pipeline) pointEnded(m *making, made desired.PointState, o consistency.Outcome) error {
	if p.making != m {
		return nil
	}
	p.making = nil
	if made.At == (block.Position{}) {
		p.cutAt = p.Now().Add(cutAgain) // it is wanted still
		return p.save()
	}
	made.Time = p.Now()
	p.State.Point = made
	p.Log.Info("point made", "position", made.At, "kind", made.Kind, "name", made.Name, "frozen", o.Frozen, "mounts", o.Mounts, "problem", made.Problem)
	if e, worth := pointEvent(made, o); worth {
		p.event(e)
	}
	p.publish(p.Now())
	return p.save()
}

// pointEvent tells of a point. One that the policy wants, made without a word of anybody,
// is no news.
func pointEvent(made desired.PointState, o consistency.Outcome) (desired.Event, bool) {
	name := made.At.String()
	if made.Name != "" {
		name += " (" + made.Name + ")"
	}
	var more []string
	if o.Frozen > 0 {
		more = append(more, fmt.Sprintf("frozen for %d ms: %s", o.Frozen.Milliseconds(), strings.Join(o.Mounts, ", ")))
	}
	more = append(more, o.Notes...)
	if o.Output != "" {
		more = append(more, "the scripts said: "+o.Output)
	}
	e := desired.Event{Type: "app-point", Severity: desired.Info, Message: "point " + name + " is " + kinds[made.Kind]}
	worth := made.Name != "" || len(o.Notes) > 0 || o.Output != ""
	if made.Problem != "" {
		worth = true
		e.Type, e.Severity = "app-point-failed", desired.Warning
		e.Message += ": " + made.Problem
		e.Remedy = "mend what it says: the scripts are in /etc/understudy, and the policy has the deadline; then ask again: understudy point create --app"
	}
	if len(o.Notes) > 0 && e.Remedy == "" {
		e.Remedy = "nothing, if what it says is meant; else mend the scripts in /etc/understudy"
	}
	e.Message = clipped(strings.Join(slices.Concat([]string{e.Message}, more), "; "), maxMessage)
	return e, worth
}

var kinds = map[string]string{desired.PointApp: "application-consistent", desired.PointCrash: "crash-consistent"}

// What a mark and an event carry at most, bytes.
const (
	maxProblem = 1 << 10
	maxMessage = 3 << 10
)

// clipped is the beginning of a text.
func clipped(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
