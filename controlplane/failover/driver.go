package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Pace of the driver.
const (
	leaseLife   = 30 * time.Second
	leaseRenew  = leaseLife / 3
	lookEvery   = 2 * time.Second // for jobs of a control plane that died
	workers     = 8               // jobs at once: most of them wait for a machine that boots
	maxAttempts = 5
	firstPause  = time.Second // doubles with each attempt
)

// Step is one part of a plan. Run is called again after a failure that may pass and
// after a crash; it finds out by itself what is done already. What it returns is kept
// for the steps after it, as JSON.
type Step struct {
	Name string
	Run  func(ctx context.Context, t *Task) (output any, err error)
}

// Plan is the steps of a kind of job, and what its end means.
type Plan struct {
	Steps []Step
	// Done is told to the operator when all steps are done; may be nil. Events are
	// written with the end of the job.
	Done func(ctx context.Context, t *Task) (desired.Event, error)
	// Always says that the last step is done also if one before it failed for good.
	Always bool
	// Failed is told to the operator when the job has failed; nil means that it is a job-failed.
	Failed func(job inventory.Job, p *problem.Problem) desired.Event
	// Ends is the status of a job whose steps are done; nil means JobDone.
	Ends func(job inventory.Job) inventory.JobStatus
}

// Task is a job under way, as its steps see it.
type Task struct {
	Job      inventory.Job
	outputs  map[string]json.RawMessage
	progress func(inventory.JobProgress)
}

// Output reads what an earlier step made.
func (t *Task) Output(step string, into any) error {
	raw, ok := t.outputs[step]
	if !ok {
		return fmt.Errorf("failover: job %s has no output of step %s", t.Job.ID, step)
	}
	if len(raw) == 0 {
		return nil // it made nothing
	}
	return json.Unmarshal(raw, into)
}

// Params reads what the job was asked to do.
func (t *Task) Params(into any) error { return json.Unmarshal(t.Job.Params, into) }

// Progress tells how far the present step is.
func (t *Task) Progress(p inventory.JobProgress) { t.progress(p) }

// Driver runs jobs by their plans.
type Driver struct {
	inventory *inventory.Inventory
	plans     map[Kind]Plan
	owner     string
	log       *slog.Logger
	wake      chan struct{}

	mu       sync.Mutex
	progress map[string]inventory.JobProgress // by job, of those under way
}

// NewDriver runs the inventory's jobs by these plans. Its owner's name tells its
// leases from another control plane's; it is the same after a restart, so that a
// restarted one need not wait for its own leases to end.
func NewDriver(inv *inventory.Inventory, plans map[Kind]Plan, owner string, log *slog.Logger) *Driver {
	return &Driver{inventory: inv, plans: plans, owner: owner, log: log, wake: make(chan struct{}, 1),
		progress: make(map[string]inventory.JobProgress)}
}

// Wake makes the driver look for jobs now.
func (d *Driver) Wake() {
	select {
	case d.wake <- struct{}{}:
	default: // it looks soon anyway
	}
}

// WithProgress adds how far the job's present step is, if it runs here.
func (d *Driver) WithProgress(j inventory.Job) inventory.Job {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p, ok := d.progress[j.ID]; ok && j.Status == inventory.JobRunning {
		j.Progress = &p
	}
	return j
}

func (d *Driver) steps(k Kind) []string {
	var names []string
	for _, s := range d.plans[k].Steps {
		names = append(names, s.Name)
	}
	return names
}

// Run works on jobs until the context ends. What is under way then goes on with the
// next Run.
func (d *Driver) Run(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		for d.takeOne(ctx, &group) {
		}
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-tick.C:
		}
	}
}

// takeOne leases a job and works on it beside the others; false if there is none, or
// nobody is free.
func (d *Driver) takeOne(ctx context.Context, group *sync.WaitGroup) bool {
	if ctx.Err() != nil || len(d.working()) >= workers {
		return false
	}
	job, found, err := d.inventory.LeaseJob(ctx, d.owner, leaseLife, d.working())
	if err != nil && ctx.Err() == nil {
		d.log.Error("cannot look for jobs", "err", err)
	}
	if err != nil || !found {
		return false
	}
	d.set(job.ID, inventory.JobProgress{})
	group.Go(func() {
		d.work(ctx, job)
		d.forget(job.ID)
		d.Wake()
	})
	return true
}

func (d *Driver) working() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []string
	for id := range d.progress {
		ids = append(ids, id)
	}
	return ids
}

func (d *Driver) set(job string, p inventory.JobProgress) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.progress[job] = p
}

func (d *Driver) forget(job string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.progress, job)
}

// work runs a job to its end, as long as the lease can be kept.
func (d *Driver) work(ctx context.Context, job inventory.Job) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go d.keepLease(ctx, job.ID, cancel)
	d.log.Info("job begins", "job", job.ID, "kind", job.Kind, "machine", job.Machine)
	event, err := d.runPlan(ctx, job)
	if ctx.Err() != nil {
		d.log.Info("job interrupted", "job", job.ID, "cause", context.Cause(ctx))
		return
	}
	status := inventory.JobDone
	if ends := d.plans[Kind(job.Kind)].Ends; ends != nil {
		status = ends(job)
	}
	var p *problem.Problem
	if err != nil {
		status, p = inventory.JobFailed, asProblem(err)
		event = d.failed(job, p)
	}
	d.log.Info("job ends", "job", job.ID, "kind", job.Kind, "status", status, "err", err)
	if err := d.inventory.FinishJob(ctx, job.ID, status, p, event); err != nil {
		d.log.Error("cannot write down the end of a job", "job", job.ID, "err", err)
	}
}

// failed is what an operator is told of a job that failed.
func (d *Driver) failed(job inventory.Job, p *problem.Problem) desired.Event {
	if tell := d.plans[Kind(job.Kind)].Failed; tell != nil {
		return tell(job, p)
	}
	return desired.Event{Type: "job-failed", Severity: desired.Error,
		Message: fmt.Sprintf("%s %s: %s", job.Kind, job.ID, p.Detail), Remedy: p.Remedy}
}

// keepLease gives the job up if somebody else has taken it over. That the database
// fails for a while is no reason to stop: the lease is this owner's until it ends, and
// every step can be repeated.
func (d *Driver) keepLease(ctx context.Context, job string, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(leaseRenew)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := d.inventory.RenewLease(ctx, job, d.owner, leaseLife); problem.CodeOf(err) == problem.Conflict {
				cancel(err)
			}
		}
	}
}

func (d *Driver) runPlan(ctx context.Context, job inventory.Job) (desired.Event, error) {
	plan, ok := d.plans[Kind(job.Kind)]
	if !ok || !slices.Equal(d.steps(Kind(job.Kind)), stepNames(job)) {
		return desired.Event{}, problem.New(problem.Conflict, "ask for it again", "job %s was planned by another version of understudy", job.ID)
	}
	t := &Task{Job: job, outputs: make(map[string]json.RawMessage), progress: func(p inventory.JobProgress) { d.set(job.ID, p) }}
	if err := d.runSteps(ctx, t, plan); err != nil {
		return desired.Event{}, err
	}
	if plan.Done == nil {
		return desired.Event{Type: "job-done", Severity: desired.Info, Message: job.Kind + " " + job.ID + " is done"}, nil
	}
	return plan.Done(ctx, t)
}

// runSteps does what is left of the plan.
func (d *Driver) runSteps(ctx context.Context, t *Task, plan Plan) (failed error) {
	last := len(plan.Steps) - 1
	for i, step := range plan.Steps {
		s := t.Job.Steps[i]
		switch {
		case s.Status == inventory.JobDone:
			t.outputs[step.Name] = s.Output
			continue
		case failed != nil && i < last:
			continue
		case plan.Always && i < last && len(t.Job.Steps[last].Attempts) > 0:
			failed = lastProblem(s) // it failed for good before the control plane died
			continue
		}
		output, err := d.runStep(ctx, t, i, step)
		switch {
		case err == nil:
			t.outputs[step.Name] = output
		case ctx.Err() != nil || !plan.Always || i == last:
			return errors.Join(failed, fmt.Errorf("step %s: %w", step.Name, err))
		default:
			failed = fmt.Errorf("step %s: %w", step.Name, err)
		}
	}
	return failed
}

// lastProblem is why the step was given up.
func lastProblem(s inventory.JobStep) error {
	for i := len(s.Attempts) - 1; i >= 0; i-- {
		if p := s.Attempts[i].Problem; p != nil {
			return p
		}
	}
	return fmt.Errorf("step %s was not done", s.Name)
}

func stepNames(j inventory.Job) (names []string) {
	for _, s := range j.Steps {
		names = append(names, s.Name)
	}
	return names
}

// runStep tries a step until it is done, until it fails for good, or too often. The
// intent is on stable storage before each try.
func (d *Driver) runStep(ctx context.Context, t *Task, ord int, step Step) (json.RawMessage, error) {
	pause := firstPause
	for attempt := 1; ; attempt++ {
		if err := d.inventory.BeginAttempt(ctx, t.Job.ID, ord); err != nil {
			return nil, err
		}
		output, err := step.Run(ctx, t)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var p *problem.Problem
		if err != nil {
			p = asProblem(err)
		}
		if err := d.inventory.EndAttempt(ctx, t.Job.ID, ord, output, p); err != nil {
			return nil, err
		}
		if err == nil {
			return json.Marshal(output)
		}
		if !mayPass(err) || attempt == maxAttempts {
			return nil, err
		}
		d.log.Warn("step failed and is tried again", "job", t.Job.ID, "step", step.Name, "attempt", attempt, "err", err)
		select {
		case <-time.After(pause):
			pause *= 2
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// mayPass says whether trying again can help: only what is out of reach comes back.
func mayPass(err error) bool { return problem.CodeOf(err) == problem.Unavailable }

// asProblem keeps an error in a report. What is no problem by itself was not foreseen;
// its text is all there is to tell.
func asProblem(err error) *problem.Problem {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return p
	}
	return problem.New(problem.Internal, "see the control plane's log", "%v", err)
}
