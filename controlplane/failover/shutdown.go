package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

const (
	// lastWithin is how long the source has to answer: it freezes for two minutes at most.
	lastWithin = 3 * time.Minute
	// silence is how long nothing must be heard of a source that said that it switches
	// itself off: one that cannot says so at once, and everyone speaks every ReportEvery.
	silence = desired.ReportEvery + 2*time.Second
	// heardWithin is how long ago a source was heard that can be asked.
	heardWithin = 3 * desired.ReportEvery

	goOn = "to go on without: shut it down by hand and say --source-is-gone, or say --without-shutdown if both shall run"
)

// checkSource says what becomes of the source, and whether that can be.
func (f *Failovers) checkSource(ctx context.Context, r Request) error {
	switch r.Boot.Source {
	case SourceGone, SourceLeft:
		return nil
	case SourceShutdown:
	default:
		return problem.New(problem.Invalid, "say --shutdown-source; if it does not run any more --source-is-gone; or --without-shutdown if both shall run",
			"nobody said what becomes of the source: two of one machine can harm each other")
	}
	m, err := f.inventory.Machine(ctx, r.Machine)
	if err != nil {
		return err
	}
	p := m.Report.Protection
	switch {
	case time.Since(m.Reported) > heardWithin:
		return problem.New(problem.Conflict, goOn, "machine %s cannot be asked to shut itself down: its agent was last heard %s", m.Hostname, lastHeard(m.Reported))
	case p != nil && p.Phase == desired.PhaseScan:
		return problem.New(problem.Conflict, goOn, "machine %s cannot make a last point: its kernel does not tell of each write, and points come with scans only", m.Hostname)
	case p == nil || p.Phase != desired.PhaseSteady:
		return problem.New(problem.Conflict, "wait until understudy machine show "+m.Hostname+" says Protected; "+goOn,
			"machine %s cannot make a last point: it is not protected now", m.Hostname)
	}
	return nil
}

func lastHeard(at time.Time) string {
	if at.IsZero() {
		return "never"
	}
	return time.Since(at).Round(time.Second).String() + " ago"
}

// Last is the last point of a source that was shut down.
type Last struct {
	Point string    `json:"point"` // its id
	Name  string    `json:"name"`
	Said  time.Time `json:"said"` // when the agent told that it switches its machine off
}

// shutDown has the source make a last point and switch itself off, and waits until nothing
// more is heard of it.
func (p planner) shutDown(ctx context.Context, t *Task) (any, error) {
	var asked params
	if err := t.Params(&asked); err != nil {
		return nil, err
	}
	if asked.Boot.Source != SourceShutdown {
		return nil, nil //nolint:nilnil // nothing was to be done
	}
	name := "failover-" + t.Job.ID
	number, err := p.Inventory.CreateLastPoint(ctx, t.Job.Machine, name, lastWithin)
	if err != nil {
		return nil, err
	}
	last, err := p.untilOff(ctx, t, wish{number, name})
	if err == nil || ctx.Err() != nil {
		return last, err
	}
	return nil, errors.Join(err, p.Inventory.WithdrawLastPoint(ctx, t.Job.Machine, name))
}

// wish is the request for a last point.
type wish struct {
	number uint64
	name   string
}

// answered reads the agent's answer to it; nil while there is none.
func (w wish) answered(m inventory.Machine) (*desired.PointState, error) {
	if m.Report.Protection == nil || m.Report.Protection.Point == nil {
		return nil, nil //nolint:nilnil // no answer is no error
	}
	switch made := m.Report.Protection.Point; {
	case made.Once < w.number:
		return nil, nil //nolint:nilnil // of another request
	case made.Once > w.number || made.Name != w.name:
		return nil, errors.New("another point was asked for meanwhile")
	case made.Problem != "":
		return nil, errors.New(made.Problem)
	case !made.Off:
		return nil, errors.New("its agent is of an older version, which made the point and does not know how to switch off")
	default:
		return made, nil
	}
}

// untilOff waits for the agent's answer, and then for silence.
func (p planner) untilOff(ctx context.Context, t *Task, w wish) (*Last, error) {
	deadline := time.Now().Add(lastWithin)
	for {
		m, err := p.Inventory.Machine(ctx, t.Job.Machine)
		if err != nil {
			return nil, err
		}
		made, err := w.answered(m)
		switch {
		case err != nil:
			return nil, problem.New(problem.Conflict, goOn, "machine %s did not shut itself down, and goes on: %v", m.Hostname, err)
		case made != nil && time.Since(m.Reported) >= silence:
			return &Last{Point: made.At.String(), Name: made.Name, Said: m.Reported}, nil
		case time.Now().After(deadline) && made != nil:
			return nil, problem.New(problem.Conflict, "look at the machine; "+goOn, "machine %s said that it switches itself off, and still speaks", m.Hostname)
		case time.Now().After(deadline):
			return nil, problem.New(problem.Conflict, "look whether it runs; "+goOn, "machine %s did not answer within %s: its agent was last heard %s", m.Hostname, lastWithin, lastHeard(m.Reported))
		}
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// tookOver is what an operator is told of a machine that runs in its source's place.
func (p planner) tookOver(ctx context.Context, t *Task) (desired.Event, error) {
	what := "runs; its source and its replication were left as they are"
	var last *Last
	if err := t.Output(stepShut, &last); err != nil {
		return desired.Event{}, err
	}
	if last != nil {
		what = fmt.Sprintf("runs; its source was switched off behind its last point, %s", last.Point)
	}
	return p.told("failover", what)(ctx, t)
}
