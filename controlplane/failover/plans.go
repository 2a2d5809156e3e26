package failover

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// The steps' names. They are kept in jobs: changing one makes jobs under way fail.
const (
	stepShut        = "shut the source down"
	stepPoint       = "choose the point"
	stepMaterialise = "write the disks"
	stepRemove      = "remove the copies"
	stepMark        = "mark the failover"
	stepDown        = "take down what ran"
	stepServe       = "serve the disks"
	stepPower       = "power on"
	stepCheck       = "wait until it is up"
	stepEnd         = "take it down again"
)

// Rooms are whom the plans have do the work.
type Rooms struct {
	Inventory *inventory.Inventory
	Points    Points
	Recoverer Recoverer
	Disks     Disks
	Compute   Compute
	Facts     Facts
	Proofs    string // the directory that keeps how replicas looked
	Checks    string // the directory with the operator's check programs
}

// Plans are the plans of all kinds of job.
func Plans(r Rooms) map[Kind]Plan {
	p := planner{r}
	copies := []Step{{stepPoint, p.choosePoint}, {stepMaterialise, p.materialise}}
	boot := []Step{{stepPoint, p.choosePoint}, {stepDown, p.takeDown}, {stepServe, p.serve}, {stepPower, p.powerOn}, {stepCheck, p.untilUp}}
	run := append([]Step{{stepShut, p.shutDown}}, boot...)
	drill := append(slices.Clone(boot), Step{stepEnd, p.end})
	return map[Kind]Plan{
		Drill:       {Steps: drill, Always: true, Done: p.drilled, Failed: drillFailed},
		Test:        {Steps: copies, Done: p.told("test-failover", "is up for a test")},
		Run:         {Steps: copies, Done: p.told("failover", "is ready to take over; its source and its replication were left as they are")},
		Cleanup:     {Steps: []Step{{stepRemove, p.remove}, {stepMark, p.markCleaned}}},
		TestBoot:    {Steps: boot, Done: p.told("test-failover", "runs for a test")},
		RunBoot:     {Steps: run, Done: p.tookOver, Ends: committedOrDone},
		CleanupBoot: {Steps: []Step{{stepDown, p.takeDown}, {stepMark, p.markCleaned}}},
	}
}

// committedOrDone: a machine that is powered on again is as final as it was.
func committedOrDone(job inventory.Job) inventory.JobStatus {
	var asked params
	if json.Unmarshal(job.Params, &asked) == nil && asked.Committed {
		return inventory.JobCommitted
	}
	return inventory.JobDone
}

type planner struct{ Rooms }

// choosePoint fixes the point once: later attempts find it in the step's output.
func (p planner) choosePoint(ctx context.Context, t *Task) (any, error) {
	var asked params
	if err := t.Params(&asked); err != nil {
		return nil, err
	}
	point, err := p.Points.Resolve(ctx, t.Job.Machine, asked.Point)
	if err != nil {
		return nil, err
	}
	return point, doubtful(point, asked.InDoubt) // "latest" is another than when it was asked for
}

func (p planner) materialise(ctx context.Context, t *Task) (any, error) {
	var asked params
	var point Point
	if err := t.Params(&asked); err != nil {
		return nil, err
	}
	if err := t.Output(stepPoint, &point); err != nil {
		return nil, err
	}
	at, err := block.ParsePosition(point.ID)
	if err != nil {
		return nil, err
	}
	return p.Recoverer.Materialise(ctx, t.Job.Machine, at, asked.Dir, asked.Format, t.Progress)
}

func (p planner) remove(ctx context.Context, t *Task) (any, error) {
	var asked params
	if err := t.Params(&asked); err != nil {
		return nil, err
	}
	return p.Recoverer.Remove(ctx, t.Job.Machine, asked.Dir)
}

func (p planner) markCleaned(ctx context.Context, t *Task) (any, error) {
	var asked params
	if err := t.Params(&asked); err != nil {
		return nil, err
	}
	return nil, p.Inventory.FinishJob(ctx, asked.Failover, inventory.JobCleaned, nil, desired.Event{
		Type: "failover-cleaned", Severity: desired.Info,
		Message: fmt.Sprintf("what failover %s made in %s was removed", asked.Failover, asked.Dir)})
}

func (p planner) told(event, what string) func(context.Context, *Task) (desired.Event, error) {
	return func(ctx context.Context, t *Task) (desired.Event, error) {
		var asked params
		var point Point
		if err := json.Unmarshal(t.Job.Params, &asked); err != nil {
			return desired.Event{}, err
		}
		if err := t.Output(stepPoint, &point); err != nil {
			return desired.Event{}, err
		}
		return desired.Event{Type: event, Severity: desired.Info, Message: fmt.Sprintf("machine %s as of %s (point %s) %s, in %s",
			p.nameOf(ctx, t), point.Time.Format("2006-01-02T15:04:05.000Z07:00"), point.ID, what, asked.Dir)}, nil
	}
}
