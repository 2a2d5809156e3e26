package failover

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Drill is a test failover that cleans up after itself, whatever becomes of it: proof,
// again and again, that a machine can be brought up.
const Drill Kind = "drill"

// lookForDrills is how often the control plane looks whether one is due.
const lookForDrills = time.Minute

// drillOwner is who asks for those that are due.
const drillOwner = "policy"

// StartDrill queues a drill as the machine's policy wants it.
func (f *Failovers) StartDrill(ctx context.Context, machine block.MachineID, askedBy string) (Failover, error) {
	m, err := f.inventory.Machine(ctx, machine)
	if err != nil {
		return Failover{}, err
	}
	p, err := f.inventory.Policy(ctx, m.Policy)
	if err != nil {
		return Failover{}, err
	}
	return f.Start(ctx, Request{Kind: Drill, Machine: machine, AskedBy: askedBy,
		Boot: &Boot{Hardware: Hardware{Bus: Bus(p.DrillBus), Memory: p.DrillMemory}, Check: p.DrillCheck, Deadline: int(p.DrillDeadline)}})
}

// Drills is the newest drills, the newest first; a zero machine means all machines.
func (f *Failovers) Drills(ctx context.Context, machine block.MachineID) ([]Failover, error) {
	return f.list(ctx, machine, Drill)
}

// FollowDrills starts each drill when it is due, until the context ends. There is one at
// a time: together they could take the host from a failover that matters.
func (f *Failovers) FollowDrills(ctx context.Context) {
	tick := time.NewTicker(lookForDrills)
	defer tick.Stop()
	for {
		if err := f.startDue(ctx, time.Now()); err != nil && ctx.Err() == nil {
			f.driver.log.Error("cannot look for drills that are due", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// startDue starts the drill that has been due for the longest time, if none is under way.
func (f *Failovers) startDue(ctx context.Context, now time.Time) error {
	machines, err := f.inventory.Machines(ctx)
	if err != nil {
		return err
	}
	policies, err := f.inventory.Policies(ctx)
	if err != nil {
		return err
	}
	every := map[string]time.Duration{}
	for _, p := range policies {
		every[p.Name] = time.Duration(p.DrillSeconds) * time.Second
	}
	var next inventory.Machine
	var longest time.Duration
	for _, m := range machines {
		last, under, err := f.lastDrill(ctx, m.ID)
		if err != nil || under {
			return err
		}
		if late := now.Sub(last) - every[m.Policy]; every[m.Policy] > 0 && late >= longest && f.ready(ctx, m.ID) {
			next, longest = m, late
		}
	}
	if next.ID.IsZero() {
		return nil
	}
	return f.startOrTell(ctx, next)
}

// lastDrill is when the machine's last drill was asked for, and whether it goes on.
func (f *Failovers) lastDrill(ctx context.Context, machine block.MachineID) (asked time.Time, under bool, err error) {
	jobs, err := f.inventory.Jobs(ctx, inventory.JobFilter{Machine: machine, Kinds: []string{string(Drill)}, Limit: 1})
	if err != nil || len(jobs) == 0 {
		return time.Time{}, false, err
	}
	return jobs[0].Created, jobs[0].Status == inventory.JobQueued || jobs[0].Status == inventory.JobRunning, nil
}

// ready reports whether there is anything of the machine to try. What has no point yet is
// told by its state.
func (f *Failovers) ready(ctx context.Context, machine block.MachineID) bool {
	_, err := f.points.Resolve(ctx, machine, "latest")
	return err == nil
}

// startOrTell: a drill that cannot even begin is one that failed. It is written down as
// such, so that it is told once and not each minute.
func (f *Failovers) startOrTell(ctx context.Context, m inventory.Machine) error {
	_, err := f.StartDrill(ctx, m.ID, drillOwner)
	p := asProblem(err)
	if err == nil || problem.CodeOf(err) == problem.Unavailable { // that passes
		return err
	}
	job, err := f.inventory.AddJob(ctx, string(Drill), m.ID, params{Point: "latest", Boot: &Boot{}}, drillOwner, nil)
	if err != nil {
		return err
	}
	return f.inventory.FinishJob(ctx, job.ID, inventory.JobFailed, p, drillFailed(job, p))
}

// drillFailed is told of a machine that could not be brought up.
func drillFailed(job inventory.Job, p *problem.Problem) desired.Event {
	return desired.Event{Type: "drill-failed", Severity: desired.Error, Remedy: p.Remedy + "; see understudy failover show " + job.ID,
		Message: fmt.Sprintf("drill %s: the machine could not be brought up: %s", job.ID, p.Detail)}
}

// drilled is told of a machine that could.
func (p planner) drilled(ctx context.Context, t *Task) (desired.Event, error) {
	var proof Proof
	if err := t.Output(stepCheck, &proof); err != nil {
		return desired.Event{}, err
	}
	return desired.Event{Type: "drill-passed", Severity: desired.Info,
		Message: fmt.Sprintf("drill %s: machine %s was up after %.0f s (%s)", t.Job.ID, p.nameOf(ctx, t), proof.Seconds, proof.By)}, nil
}

// end takes down what the drill brought up.
func (p planner) end(ctx context.Context, t *Task) (any, error) {
	if err := p.forgetProofs(ctx, t.Job.Machine); err != nil {
		return nil, err
	}
	var point Point
	if err := t.Output(stepPoint, &point); err != nil {
		return nil, nil //nolint:nilerr // no point was chosen: nothing was brought up
	}
	return nil, p.takeDownFrom(ctx, t, point.ID)
}

// keptProofs is of how many drills of a machine it is kept how it looked.
const keptProofs = 20

// forgetProofs removes the screens and consoles of older drills; their results stay.
func (p planner) forgetProofs(ctx context.Context, machine block.MachineID) error {
	jobs, err := p.Inventory.Jobs(ctx, inventory.JobFilter{Machine: machine, Kinds: []string{string(Drill)}, Limit: 2 * keptProofs})
	if err != nil {
		return err
	}
	for _, j := range jobs[min(keptProofs, len(jobs)):] {
		if err := os.RemoveAll(filepath.Join(p.Proofs, j.ID)); err != nil {
			return fmt.Errorf("the proof of an older drill: %w", err)
		}
	}
	return nil
}
