// Package failover brings machines up elsewhere, and takes down again what a test
// brought up.
//
// A failover is a job of the inventory. Its plan is a list of steps; the driver runs
// them in order and knows nothing of what they do. Before a step is tried, that is
// written down; when it is done, what it made is. Every step can be repeated: it finds
// what an attempt that was cut short left behind and goes on from there. So the job of
// a control plane that died is taken up by the next one, at the step where it was, and
// with the point that was chosen at first, also if the operator said "latest".
//
// No verb here touches replication, the source or the vault's content. What a failover
// makes is removed only by Cleanup, and only if it made it.
package failover

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Kind is what a job does.
type Kind string

const (
	Test    Kind = "failover-test" // a copy to try; replication goes on
	Run     Kind = "failover-run"  // the copy that is to take over; replication goes on, too
	Cleanup Kind = "cleanup"       // remove what one of the others made

	// The same with a machine that runs from the disks, of which nothing is copied.
	TestBoot    Kind = "failover-test-boot"
	RunBoot     Kind = inventory.Takeover
	CleanupBoot Kind = "cleanup-boot"
)

// failovers are the kinds whose end is something that is up; shown are those that an
// operator can look at.
var (
	failovers = []Kind{Test, Run, TestBoot, RunBoot}
	shown     = append(slices.Clone(failovers), Drill)
)

// Boots reports whether a machine is brought up.
func (k Kind) Boots() bool { return k == TestBoot || k == RunBoot || k == Drill }

// cleanup removes what this kind made.
func (k Kind) cleanup() Kind {
	if k.Boots() {
		return CleanupBoot
	}
	return Cleanup
}

// The formats in which disks are written.
const (
	Raw = "raw"
	VHD = "vhd"
)

// Point is a moment to which a machine can be brought back.
type Point struct {
	ID       string         `json:"id" doc:"The position in the machine's log, epoch.seq."`
	Position block.Position `json:"-"`
	Time     time.Time      `json:"time" doc:"By the machine's clock."`
	Kind     string         `json:"kind" doc:"crash or app."`
	Name     string         `json:"name,omitempty"`
	Locked   bool           `json:"locked,omitempty" doc:"Kept whatever the retention says."`
	Problem  string         `json:"problem,omitempty" doc:"Why it is not application-consistent, where that was wanted."`
	InDoubt  []Doubt        `json:"in_doubt,omitempty" doc:"Why it may show other bytes than the disks had."`
}

// Doubt is a difference between disks and replica that a proof found, and that the
// point may show.
type Doubt struct {
	Found   time.Time          `json:"found"`
	Cause   string             `json:"cause" doc:"different: other bytes; damaged: an object of the vault cannot be used."`
	Bytes   int64              `json:"bytes"`
	Extents []block.DiskExtent `json:"extents,omitempty" doc:"Where; in a list of points left out, see its doubts."`
}

// doubtful refuses a point in doubt to who has not said that he wants it all the same.
func doubtful(p Point, wanted bool) error {
	if len(p.InDoubt) == 0 || wanted {
		return nil
	}
	d := p.InDoubt[0]
	return problem.New(problem.PointInDoubt, "choose a point that understudy point list does not show in doubt, or say --in-doubt (in_doubt) if you want this one all the same",
		"point %s of %s may show other bytes than the disks had: a proof found %d bytes %s at %s",
		p.ID, p.Time.Format(time.RFC3339), d.Bytes, d.Cause, d.Found.Format(time.RFC3339))
}

// Copy is a disk of a machine that was brought back.
type Copy struct {
	Disk block.DiskID `json:"disk"`
	Name string       `json:"name" doc:"The disk's stable name."`
	File string       `json:"file" doc:"On the control plane's host."`
	Size int64        `json:"size" doc:"Bytes."`
}

// Points finds moments to go back to.
type Points interface {
	// Resolve finds the point that is meant by latest, latest-app, an id, a name or a
	// time. Errors are problems with code point-unknown or no-point.
	Resolve(ctx context.Context, machine block.MachineID, spec string) (Point, error)
}

// Recoverer makes disks of the past present. Both methods can be repeated.
type Recoverer interface {
	// Materialise writes all disks of the machine at the position into files of this
	// format in dir, and goes on with what an earlier call left unfinished. It does not
	// overwrite what it did not make: that is a problem with code exists.
	Materialise(ctx context.Context, machine block.MachineID, at block.Position, dir, format string, progress func(inventory.JobProgress)) ([]Copy, error)
	// Remove deletes what Materialise made of the machine in dir, and nothing else.
	Remove(ctx context.Context, machine block.MachineID, dir string) (removed []string, err error)
}

// Request asks for a failover.
type Request struct {
	Kind    Kind
	Machine block.MachineID
	Point   string // see Points.Resolve
	Dir     string // absolute, on the control plane's host; empty: one below the default directory
	Format  string // Raw or VHD; empty: Raw
	InDoubt bool   // also a point in doubt
	Boot    *Boot  // how to bring a machine up; nil: Test and Run make copies only
	AskedBy string
}

// params is what is kept of a request.
type params struct {
	Point    string `json:"point,omitempty"`
	Dir      string `json:"dir,omitempty"`
	Format   string `json:"format,omitempty"`
	InDoubt  bool   `json:"in_doubt,omitempty"`
	Failover string `json:"failover,omitempty"` // Cleanup: the job whose copies to remove
	Boot     *Boot  `json:"boot,omitempty"`
	Before   string `json:"before,omitempty"` // the point that the replica had before this one

	Committed bool `json:"committed,omitempty"` // RunBoot: it is final
}

// Failovers starts and shows failovers.
type Failovers struct {
	inventory *inventory.Inventory
	points    Points
	rooms     Rooms
	dir       string
	driver    *Driver
}

// New is the failovers that these rooms do. dir is where copies go for which nobody
// names a directory.
func New(rooms Rooms, dir string, driver *Driver) *Failovers {
	return &Failovers{inventory: rooms.Inventory, points: rooms.Points, rooms: rooms, dir: dir, driver: driver}
}

// Start queues a failover. What can be known to fail now fails now.
func (f *Failovers) Start(ctx context.Context, r Request) (Failover, error) {
	if r.Format == "" && r.Boot == nil {
		r.Format = Raw
	}
	if r.Point == "" {
		r.Point = "latest"
	}
	if err := check(r); err != nil {
		return Failover{}, err
	}
	if r.Dir == "" {
		r.Dir = f.ownDir(r)
	}
	if r.Boot != nil {
		if err := f.checkBoot(ctx, r); err != nil {
			return Failover{}, err
		}
	}
	if other, used, err := f.userOf(ctx, r.Dir, ""); err != nil {
		return Failover{}, err
	} else if used {
		return Failover{}, problem.New(problem.Exists, "choose another directory, or first: understudy failover cleanup "+other.ID,
			"%s holds the copies of failover %s", r.Dir, other.ID)
	}
	point, err := f.points.Resolve(ctx, r.Machine, r.Point)
	if err == nil {
		err = doubtful(point, r.InDoubt)
	}
	if err != nil {
		return Failover{}, err
	}
	job, err := f.inventory.AddJob(ctx, string(r.Kind), r.Machine, params{Point: r.Point, Dir: r.Dir, Format: r.Format, InDoubt: r.InDoubt, Boot: r.Boot}, r.AskedBy, f.driver.steps(r.Kind))
	if err != nil {
		return Failover{}, err
	}
	f.driver.Wake()
	return view(job)
}

// ownDir is a directory that no other failover has. That of a replica is short: it holds
// sockets, whose paths are.
func (f *Failovers) ownDir(r Request) string {
	now := time.Now().UTC().Format("20060102T150405.000")
	if r.Boot != nil {
		return filepath.Join(f.dir, r.Machine.String()[:8]+"-"+now)
	}
	return filepath.Join(f.dir, fmt.Sprintf("%s-%s", r.Machine, now))
}

func check(r Request) error {
	const remedy = "see understudy failover --help"
	switch {
	case !slices.Contains(shown, r.Kind) || r.Kind.Boots() != (r.Boot != nil):
		return problem.New(problem.Invalid, remedy, "%q is not a kind of failover", r.Kind)
	case r.Boot != nil && r.Format != "":
		return problem.New(problem.Invalid, remedy, "a machine boots from its disks as they are: there is no copy to have the format %s", r.Format)
	case r.Boot == nil && r.Format != Raw && r.Format != VHD:
		return problem.New(problem.Invalid, remedy, "%q is not a format: want %s or %s", r.Format, Raw, VHD)
	case r.Dir != "" && (!filepath.IsAbs(r.Dir) || filepath.Clean(r.Dir) != r.Dir):
		return problem.New(problem.Invalid, "give it in full, for example /var/recovered/web1", "%q is not an absolute path on the control plane's host", r.Dir)
	}
	return nil
}

// userOf finds the failover whose copies are, or are becoming, those in a directory.
// One that failed does not count: another may go on with what it left.
func (f *Failovers) userOf(ctx context.Context, dir, except string) (Failover, bool, error) {
	all, err := f.List(ctx, block.MachineID{})
	if err != nil {
		return Failover{}, false, err
	}
	i := slices.IndexFunc(all, func(o Failover) bool {
		return o.ID != except && o.Dir == dir && o.Status != inventory.JobFailed && o.Status != inventory.JobCleaned
	})
	if i < 0 {
		return Failover{}, false, nil
	}
	return all[i], true, nil
}

// Clean queues the removal of what a failover made. A failover that is to take over is
// removed only by force: its copy may be all that is left of the machine's newest data.
func (f *Failovers) Clean(ctx context.Context, id string, force bool, askedBy string) (inventory.Job, error) {
	job, err := f.inventory.Job(ctx, id)
	if err != nil {
		return job, err
	}
	v, err := view(job)
	if err != nil {
		return job, err
	}
	switch {
	case v.Kind == Drill:
		return job, problem.New(problem.Conflict, "nothing is to be done", "drill %s cleans up by itself", id)
	case v.Status == inventory.JobCleaned:
		return job, problem.New(problem.Conflict, "nothing is left to do", "failover %s was cleaned up already", id)
	case v.Status == inventory.JobQueued || v.Status == inventory.JobRunning:
		return job, problem.New(problem.Conflict, "wait until it has ended: understudy job show "+id, "failover %s is still under way", id)
	case v.Kind == RunBoot && !force:
		return job, problem.New(problem.Conflict, "if nothing that it wrote since is needed: understudy failover cleanup --force "+id,
			"failover %s was no test: its machine runs, and what it wrote since is nowhere else", id)
	case v.Kind == Run && !force:
		return job, problem.New(problem.Conflict, "if nothing runs from these copies and nothing on them is needed: understudy failover cleanup --force "+id,
			"failover %s was no test: its copies in %s may be in use", id, v.Dir)
	}
	if other, used, err := f.userOf(ctx, v.Dir, id); err != nil {
		return job, err
	} else if used {
		return job, problem.New(problem.Conflict, "to remove those: understudy failover cleanup "+other.ID, "%s holds the copies of failover %s by now", v.Dir, other.ID)
	}
	busy, err := f.inventory.Jobs(ctx, inventory.JobFilter{Machine: job.Machine, Kinds: []string{string(v.Kind.cleanup())}})
	if err != nil {
		return job, err
	}
	if i := slices.IndexFunc(busy, func(j inventory.Job) bool { return cleans(j) == id && j.Status != inventory.JobFailed }); i >= 0 {
		return busy[i], nil // asked twice
	}
	asked := params{Failover: id, Dir: v.Dir}
	if v.Point != nil {
		asked.Before = v.Point.ID
	}
	job, err = f.inventory.AddJob(ctx, string(v.Kind.cleanup()), job.Machine, asked, askedBy, f.driver.steps(v.Kind.cleanup()))
	f.driver.Wake()
	return job, err
}

func cleans(j inventory.Job) string {
	var p params
	_ = json.Unmarshal(j.Params, &p) // a job without one cleans nothing
	return p.Failover
}

// Failover is a job that brings something up, as operators see it.
type Failover struct {
	ID       string                 `json:"id"`
	Kind     Kind                   `json:"kind"`
	Machine  block.MachineID        `json:"machine"`
	Status   inventory.JobStatus    `json:"status"`
	AskedFor string                 `json:"asked_for" doc:"The point as the operator named it."`
	Point    *Point                 `json:"point,omitempty" doc:"The point that was chosen."`
	Dir      string                 `json:"dir" doc:"On the control plane's host."`
	Format   string                 `json:"format,omitempty" doc:"Of the copies; absent where a machine boots."`
	Copies   []Copy                 `json:"copies"`
	Boot     *Boot                  `json:"boot,omitempty" doc:"How a machine was to be brought up; absent where only its disks were."`
	Hardware *Hardware              `json:"hardware,omitempty" doc:"What it was given."`
	Replica  *Powered               `json:"replica,omitempty" doc:"The machine that was powered on."`
	State    string                 `json:"state,omitempty" doc:"How that machine is now, in its hypervisor's words, or off; in a list left out."`
	Proof    *Proof                 `json:"proof,omitempty" doc:"How it showed that it is up."`
	Created  time.Time              `json:"created"`
	Ended    time.Time              `json:"ended,omitzero"`
	Seconds  float64                `json:"seconds" doc:"From begin to end, or to now."`
	Progress *inventory.JobProgress `json:"progress,omitempty"`
	Problem  *problem.Problem       `json:"problem,omitempty"`
}

// Get is one failover. The error is a problem with code not-found.
func (f *Failovers) Get(ctx context.Context, id string) (Failover, error) {
	job, err := f.inventory.Job(ctx, id)
	if err != nil {
		return Failover{}, err
	}
	v, err := view(f.driver.WithProgress(job))
	if err == nil && v.Replica != nil && v.Kind != Drill && v.Status != inventory.JobCleaned {
		var s Sight
		if s, err = f.rooms.Compute.Look(ctx, v.Dir); err == nil {
			v.State = cmp.Or(s.State, "off")
		}
	}
	return v, err
}

// List is the newest failovers, the newest first; a zero machine means all machines.
func (f *Failovers) List(ctx context.Context, machine block.MachineID) ([]Failover, error) {
	return f.list(ctx, machine, failovers...)
}

func (f *Failovers) list(ctx context.Context, machine block.MachineID, kinds ...Kind) ([]Failover, error) {
	jobs, err := f.inventory.Jobs(ctx, inventory.JobFilter{Machine: machine, Kinds: kindNames(kinds)})
	if err != nil {
		return nil, err
	}
	out := make([]Failover, 0, len(jobs))
	for _, j := range jobs {
		v, err := view(f.driver.WithProgress(j))
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func kindNames(kinds []Kind) (names []string) {
	for _, k := range kinds {
		names = append(names, string(k))
	}
	return names
}

// view reads a failover out of its job.
func view(j inventory.Job) (Failover, error) {
	v := Failover{ID: j.ID, Kind: Kind(j.Kind), Machine: j.Machine, Status: j.Status, Created: j.Created, Ended: j.Ended,
		Copies: []Copy{}, Progress: j.Progress, Problem: j.Problem}
	if !slices.Contains(shown, v.Kind) {
		return v, problem.New(problem.NotFound, "see understudy failover list", "job %s is not a failover but a %s", j.ID, j.Kind)
	}
	var p params
	if err := json.Unmarshal(j.Params, &p); err != nil {
		return v, fmt.Errorf("failover: job %s: %w", j.ID, err)
	}
	v.AskedFor, v.Dir, v.Format, v.Boot = p.Point, p.Dir, p.Format, p.Boot
	if !j.Started.IsZero() {
		end := j.Ended
		if end.IsZero() {
			end = time.Now()
		}
		v.Seconds = end.Sub(j.Started).Seconds()
	}
	var up powerOn
	for _, s := range j.Steps {
		into := map[string]any{stepPoint: &v.Point, stepMaterialise: &v.Copies, stepPower: &up, stepCheck: &v.Proof}[s.Name]
		if into == nil || len(s.Output) == 0 {
			continue
		}
		if err := json.Unmarshal(s.Output, into); err != nil {
			return v, fmt.Errorf("failover: job %s, step %s: %w", j.ID, s.Name, err)
		}
	}
	v.Hardware, v.Replica = up.Hardware, up.Replica
	return v, nil
}
