package failover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Boot is how a machine is to be brought up. What is not said comes from what its agent
// reported, else from what is usual.
type Boot struct {
	Hardware
	Source   Source `json:"source,omitempty" enum:"shutdown,gone,left" doc:"Of a run: shutdown: it makes a last point and is switched off; gone: it does not run any more; left: both will run."`
	Check    string `json:"check,omitempty" doc:"The operator's own check, a program in DATA/checks of the control plane."`
	Deadline int    `json:"deadline,omitempty" doc:"Seconds until the machine must be up; 0: 600."`
}

// Source is what becomes of the source of a machine that takes over.
type Source string

const (
	SourceShutdown Source = "shutdown" // it makes a last point and is switched off
	SourceGone     Source = "gone"     // it does not run any more
	SourceLeft     Source = "left"     // it is left as it is
)

// Limits of what can be asked for.
const (
	DefaultDeadline = 600       // seconds
	maxDeadline     = 24 * 3600 // seconds
	minMemory       = 64 << 20
	maxMemory       = 1 << 40
	maxCPUs         = 256
	maxForward      = 32
	maxSocketDir    = 96 // bytes: a socket's path has at most 107, and a name behind the directory
)

func (b Boot) check() error {
	const remedy = "see understudy failover test --help"
	invalid := func(format string, args ...any) error { return problem.New(problem.Invalid, remedy, format, args...) }
	switch {
	case !slices.Contains([]Firmware{"", BIOS, UEFI}, b.Firmware):
		return invalid("%q is no firmware: want %s or %s", b.Firmware, BIOS, UEFI)
	case !slices.Contains([]Network{"", Isolated, User}, b.Network):
		return invalid("%q is no network: want %s or %s", b.Network, Isolated, User)
	case b.Bus != "" && !slices.Contains(Buses, b.Bus):
		return invalid("%q is no bus: want one of %v", b.Bus, Buses)
	case b.Memory != 0 && (b.Memory < minMemory || b.Memory > maxMemory):
		return invalid("%d bytes of memory: want %d to %d", b.Memory, minMemory, maxMemory)
	case b.CPUs < 0 || b.CPUs > maxCPUs:
		return invalid("%d processors: want 1 to %d", b.CPUs, maxCPUs)
	case b.Deadline < 0 || b.Deadline > maxDeadline:
		return invalid("a deadline of %d seconds: want 1 to %d", b.Deadline, maxDeadline)
	case len(b.Forward) > maxForward || slices.ContainsFunc(b.Forward, func(p int) bool { return p < 1 || p > 65535 }):
		return invalid("ports %v: want at most %d, each from 1 to 65535", b.Forward, maxForward)
	case b.Check != "" && (b.Check != filepath.Base(b.Check) || b.Check[0] == '.'):
		return invalid("%q is not the name of a check: put the program into DATA/checks and give its name", b.Check)
	}
	return nil
}

// checkBoot says what can be known to fail, before anything is written down.
func (f *Failovers) checkBoot(ctx context.Context, r Request) error {
	if err := r.Boot.check(); err != nil {
		return err
	}
	if err := f.checkThere(*r.Boot); err != nil {
		return err
	}
	if len(r.Dir) > maxSocketDir {
		return problem.New(problem.Invalid, "give a shorter one with --to, or a shorter --data to understudy serve",
			"%s is too long: sockets are to lie there, whose paths have at most 107 bytes", r.Dir)
	}
	// A clean-up removes by name what is made there: nothing else may have these names.
	if there, err := os.ReadDir(r.Dir); err == nil && len(there) > 0 {
		return problem.New(problem.Exists, "choose another directory", "%s is not empty, and a replica needs one of its own", r.Dir)
	}
	if r.Kind != RunBoot {
		return nil
	}
	if err := f.checkSource(ctx, r); err != nil {
		return err
	}
	other, there, err := f.takeover(ctx, r.Machine)
	if err == nil && there {
		err = problem.New(problem.Conflict, fmt.Sprintf("for another point: understudy failover change-point %s; to begin anew, first: understudy failover cleanup --force %[1]s", other.ID),
			"failover %s of this machine is %s: two of one machine must not run", other.ID, other.Status)
	}
	return err
}

// takeover finds the failover that stands for the machine, or was to.
func (f *Failovers) takeover(ctx context.Context, machine block.MachineID) (inventory.Job, bool, error) {
	jobs, err := f.inventory.Jobs(ctx, inventory.JobFilter{Machine: machine, Kinds: []string{string(RunBoot)}})
	i := slices.IndexFunc(jobs, func(j inventory.Job) bool { return j.Status != inventory.JobCleaned })
	if err != nil || i < 0 {
		return inventory.Job{}, false, err
	}
	return jobs[i], true, nil
}

// ChangePoint brings the machine of a failover up anew, as of another point. What it has
// written since is lost, which force says is right.
func (f *Failovers) ChangePoint(ctx context.Context, id, point string, inDoubt, force bool) (Failover, error) {
	job, v, err := f.run(ctx, id)
	if err != nil {
		return v, err
	}
	switch {
	case v.Status == inventory.JobCommitted:
		return v, problem.New(problem.Conflict, "bring the files back beside it: understudy failover test", "failover %s is committed: its point is final", id)
	case v.Status != inventory.JobDone && v.Status != inventory.JobFailed:
		return v, problem.New(problem.Conflict, "wait until it has ended: understudy job show "+id, "failover %s is %s", id, v.Status)
	case !force:
		return v, problem.New(problem.Conflict, "if nothing of that is needed, say --force", "what the machine of failover %s wrote since it booted is lost when it boots from another point", id)
	}
	if err := f.notCleaned(ctx, job.Machine, id); err != nil {
		return v, err
	}
	chosen, err := f.points.Resolve(ctx, job.Machine, point)
	if err == nil {
		err = doubtful(chosen, inDoubt)
	}
	if err != nil {
		return v, err
	}
	var asked params
	if err := (&Task{Job: job}).Params(&asked); err != nil {
		return v, err
	}
	asked.Point, asked.InDoubt = point, inDoubt
	if v.Point != nil {
		asked.Before = v.Point.ID
	}
	from := 0
	if job.Steps[0].Status == inventory.JobDone {
		from = 1 // what became of the source is behind us
	}
	if job, err = f.inventory.RestartJob(ctx, id, asked, from); err != nil {
		return v, err
	}
	f.driver.Wake()
	return view(job)
}

// PowerOn brings the machine of a failover up again that went off, with what it wrote: its
// host lost its power, or somebody shut it down. One that runs goes on.
func (f *Failovers) PowerOn(ctx context.Context, id string) (Failover, error) {
	job, err := f.inventory.Job(ctx, id)
	if err != nil {
		return Failover{}, err
	}
	v, err := view(job)
	if err != nil {
		return v, err
	}
	from := slices.Index(stepNames(job), stepServe)
	switch {
	case v.Kind == Drill:
		return v, problem.New(problem.Conflict, "understudy failover test --boot brings the machine up and leaves it", "drill %s is over", id)
	case from < 0:
		return v, problem.New(problem.Conflict, "see understudy failover test --help", "failover %s made copies: it has no machine", id)
	case job.Steps[from].Status != inventory.JobDone:
		return v, problem.New(problem.Conflict, "see understudy failover show "+id, "failover %s is %s, and its machine has not been powered on yet", id, v.Status)
	}
	if err := f.notCleaned(ctx, job.Machine, id); err != nil {
		return v, err
	}
	var asked params
	if err := (&Task{Job: job}).Params(&asked); err != nil {
		return v, err
	}
	asked.Committed = v.Status == inventory.JobCommitted || asked.Committed
	if job, err = f.inventory.RestartJob(ctx, id, asked, from); err != nil { // of one that ended only
		return v, err
	}
	f.driver.Wake()
	return view(job)
}

// run is a failover that brought a machine up to take over.
func (f *Failovers) run(ctx context.Context, id string) (inventory.Job, Failover, error) {
	job, err := f.inventory.Job(ctx, id)
	if err != nil {
		return job, Failover{}, err
	}
	v, err := view(job)
	if err == nil && v.Kind != RunBoot {
		err = problem.New(problem.Conflict, "start one with understudy failover run --boot", "failover %s is a %s: there is nothing to change or to commit", id, v.Kind)
	}
	return job, v, err
}

// notCleaned refuses what a clean-up under way would pull the floor from under.
func (f *Failovers) notCleaned(ctx context.Context, machine block.MachineID, id string) error {
	jobs, err := f.inventory.Jobs(ctx, inventory.JobFilter{Machine: machine, Kinds: []string{string(CleanupBoot)}})
	if i := slices.IndexFunc(jobs, func(j inventory.Job) bool { return cleans(j) == id && j.Status != inventory.JobFailed }); err == nil && i >= 0 {
		err = problem.New(problem.Conflict, "see understudy job show "+jobs[i].ID, "failover %s is being cleaned up", id)
	}
	return err
}

// Commit makes a failover final: its point can no longer be changed. The vault and all
// points stay.
func (f *Failovers) Commit(ctx context.Context, id string) (Failover, error) {
	job, v, err := f.run(ctx, id)
	if err != nil {
		return v, err
	}
	switch v.Status {
	case inventory.JobCommitted:
		return v, nil // asked twice
	case inventory.JobDone:
	default:
		return v, problem.New(problem.Conflict, "see understudy failover show "+id, "failover %s is %s: only a machine that is up can be committed", id, v.Status)
	}
	if err := f.notCleaned(ctx, job.Machine, id); err != nil {
		return v, err
	}
	err = f.inventory.FinishJob(ctx, id, inventory.JobCommitted, nil, desired.Event{Type: "failover-committed", Severity: desired.Info,
		Message: fmt.Sprintf("failover %s is final, with point %s of %s", id, v.Point.ID, v.Point.Time.Format(time.RFC3339))})
	if err != nil {
		return v, err
	}
	return f.Get(ctx, id)
}

// Screenshot is the screen of a failover's machine: as it is now if it runs, else as it
// was when it was checked.
func (f *Failovers) Screenshot(ctx context.Context, id string) ([]byte, error) {
	job, err := f.inventory.Job(ctx, id)
	if err != nil {
		return nil, err
	}
	v, err := view(job)
	if err != nil {
		return nil, err
	}
	if v.Kind.Boots() && v.Status != inventory.JobCleaned {
		if shot, err := f.rooms.Compute.Screenshot(ctx, v.Dir); err == nil {
			return shot, nil
		}
	}
	shot, err := os.ReadFile(filepath.Join(f.rooms.Proofs, id, screenName))
	if errors.Is(err, fs.ErrNotExist) {
		err = problem.New(problem.NotFound, "see understudy failover show "+id, "there is no screenshot of failover %s", id)
	}
	return shot, err
}

// takeDown leaves nothing of a machine that ran, or was to: for its clean-up, and before
// the same failover boots another point.
func (p planner) takeDown(ctx context.Context, t *Task) (any, error) {
	var asked params
	if err := t.Params(&asked); err != nil {
		return nil, err
	}
	return nil, p.takeDownFrom(ctx, t, asked.Before)
}

// takeDownFrom takes down what runs from this point; none if nothing ever did.
func (p planner) takeDownFrom(ctx context.Context, t *Task, point string) error {
	var asked params
	if err := t.Params(&asked); err != nil {
		return err
	}
	if err := p.Compute.Stop(ctx, asked.Dir); err != nil {
		return err
	}
	if err := p.Disks.Withdraw(ctx, asked.Dir); err != nil {
		return err
	}
	if point == "" {
		return nil
	}
	at, err := block.ParsePosition(point)
	if err != nil {
		return err
	}
	used, err := p.usedByOther(ctx, t, asked.Failover, point)
	if err != nil || used {
		return err // its own clean-up gives it back to the retention
	}
	return p.Disks.Unlock(ctx, t.Job.Machine, at)
}

// usedByOther reports whether another machine runs from the point.
func (p planner) usedByOther(ctx context.Context, t *Task, cleaned, point string) (bool, error) {
	jobs, err := p.Inventory.Jobs(ctx, inventory.JobFilter{Machine: t.Job.Machine, Kinds: kindNames([]Kind{TestBoot, RunBoot, Drill}), Limit: 1000})
	if err != nil {
		return false, err
	}
	for _, j := range jobs {
		v, err := view(j)
		if err != nil {
			return false, err
		}
		own := j.ID == t.Job.ID || j.ID == cleaned
		over := v.Status == inventory.JobCleaned || v.Kind == Drill && v.Status != inventory.JobQueued && v.Status != inventory.JobRunning
		if !own && !over && v.Point != nil && v.Point.ID == point {
			return true, nil
		}
	}
	return false, nil
}

func (p planner) serve(ctx context.Context, t *Task) (any, error) { return p.serveDisks(ctx, t) }

// serveDisks keeps the point and serves its disks.
func (p planner) serveDisks(ctx context.Context, t *Task) ([]Served, error) {
	var asked params
	var point Point
	if err := errors.Join(t.Params(&asked), t.Output(stepPoint, &point)); err != nil {
		return nil, err
	}
	at, err := block.ParsePosition(point.ID)
	if err != nil {
		return nil, err
	}
	if err := p.Disks.Lock(ctx, t.Job.Machine, at); err != nil {
		return nil, err
	}
	return p.Disks.Serve(ctx, t.Job.Machine, at, asked.Dir)
}

// powerOn is what the step of this name makes.
type powerOn struct {
	Hardware *Hardware `json:"hardware"`
	Replica  *Powered  `json:"replica"`
}

// powerOn looks to the disks again: whatever served them may have died since, or have been
// dying when it was found.
func (p planner) powerOn(ctx context.Context, t *Task) (any, error) {
	disks, err := p.serveDisks(ctx, t)
	if err != nil {
		return nil, err
	}
	var asked params
	if err := t.Params(&asked); err != nil {
		return nil, err
	}
	source, err := p.Facts.Hardware(ctx, t.Job.Machine)
	if err != nil {
		return nil, err
	}
	h := asked.Boot.over(source)
	replica, err := p.Compute.Boot(ctx, Replica{ID: t.Job.ID, Name: p.nameOf(ctx, t), Dir: asked.Dir, Disks: disks, Hardware: h})
	return powerOn{&h, &replica}, err
}

// nameOf is what people call the job's machine.
func (p planner) nameOf(ctx context.Context, t *Task) string {
	if m, err := p.Inventory.Machine(ctx, t.Job.Machine); err == nil {
		return m.Hostname
	}
	return t.Job.Machine.String() // it was removed in the meantime
}
