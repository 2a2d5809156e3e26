package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/agent/consistency"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// A machine that is to fail over while it can still be reached makes a last point. It is
// made as an application-consistent one is, but the file systems stay frozen until the
// vault has everything up to it, and then the machine is switched off as it is. So nobody
// is told of a write that the replica does not have, and the disks hold what the point
// shows, but for free space: a frozen file system may still be trimmed.
//
// That it will switch itself off the agent says once, before it does, and does it whether
// or not it was heard: two of one machine must never run. If anything fails before, all is
// thawed, the machine goes on, and the agent says why. It does not try again.

const (
	// lastDeadline is how long all of it may take: the journal's memory has to reach the
	// vault.
	lastDeadline = 2 * time.Minute
	// lastPatience is how long a request may wait for its turn. With lastDeadline it is less
	// than the control plane waits: a machine must not go off when its operator has gone on
	// without that.
	lastPatience = 30 * time.Second
	// lastMargin is how much of that must be left when the agent says that it switches off:
	// the freezer must not thaw any more.
	lastMargin = 15 * time.Second
)

var (
	errNoPower   = errors.New("this agent cannot switch its machine off")
	errNotSteady = errors.New("the replica does not have all of the disks yet, or a resync runs")
	errLate      = errors.New("the vault did not have everything in time")
	errStale     = errors.New("the agent was busy, with another point or with its journal, when it was asked")
)

// refuseOff answers a wish for a last point that cannot be fulfilled now. It is not kept
// for later: an operator waits.
func (p *Pipeline) refuseOff(wish desired.PointWish) bool {
	err := errNotSteady
	switch {
	case p.PowerOff == nil:
		err = errNoPower
	case time.Since(p.asked) > lastPatience:
		err = errStale
	case p.phase == desired.PhaseSteady && p.doubt == nil:
		return false
	}
	p.goesOn(wish, consistency.Outcome{Problem: err})
	return true
}

func (p *Pipeline) startLast(ctx context.Context, wish desired.PointWish) {
	job := p.job(wish.Name, lastDeadline)
	job.Whole = true
	p.make(ctx, func(in context.Context, m *making) func() error {
		o := p.quiesce(in, job, func(in context.Context, still func() error) error { return p.last(in, wish, still) })
		return func() error {
			if p.making == m {
				p.making = nil
				p.goesOn(wish, o)
			}
			return p.save()
		}
	})
}

// last makes the point and ends the machine. It returns only if the machine goes on.
func (p *Pipeline) last(ctx context.Context, wish desired.PointWish, still func() error) error {
	at, err := p.cut(ctx, frame.PointMark{Name: wish.Name, Kind: desired.PointApp}, still)
	if err == nil {
		err = p.waitCommitted(ctx, at.Seq)
	}
	if err != nil {
		return fmt.Errorf("the last writes are not in the vault: %w", err)
	}
	if end, limited := ctx.Deadline(); limited && time.Until(end) < lastMargin {
		return errLate
	}
	if err := still(); err != nil {
		return err
	}
	err = p.call(ctx, func() error {
		p.State.Point = desired.PointState{Once: wish.Once, Time: p.Now(), Name: wish.Name, Kind: desired.PointApp, At: at, Off: true}
		p.publish(p.Now())
		return nil
	})
	if err != nil {
		return err
	}
	return p.PowerOff(ctx)
}

// goesOn takes down that the machine was to be switched off and was not.
func (p *Pipeline) goesOn(wish desired.PointWish, o consistency.Outcome) {
	why := "it was not switched off, and goes on"
	if o.Problem != nil {
		why = o.Problem.Error()
	}
	p.State.Point = desired.PointState{Once: wish.Once, Time: p.Now(), Name: wish.Name, Kind: desired.PointCrash, Problem: clipped(why, maxProblem)}
	p.Log.Warn("not switched off", "name", wish.Name, "problem", why, "frozen", o.Frozen)
	p.event(desired.Event{
		Type: "shutdown-failed", Severity: desired.Warning,
		Message: "a failover asked this machine to switch itself off behind a last point, and it goes on: " + clipped(why, maxMessage),
		Remedy:  "shut it down by hand and say --source-is-gone to the failover, or mend what it says",
	})
	p.publish(p.Now())
}
