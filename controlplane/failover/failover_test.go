package failover

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// vault is a double of Points and Recoverer.
type vault struct {
	mu           sync.Mutex
	newest       block.Seq
	still        bool // no newer points come
	materialised []block.Position
	removed      []string
	doubtful     block.Seq // the points up to this one are in doubt
	fail         func(attempt int) error
	block        chan struct{} // if set, Materialise waits for it or for its context
	begun        chan struct{}
}

// Resolve implements Points: latest is another point each time.
func (v *vault) Resolve(_ context.Context, machine block.MachineID, spec string) (Point, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if spec != "latest" {
		return Point{}, problem.New(problem.PointUnknown, "choose another", "machine %s has no point %q", machine, spec)
	}
	if v.newest == 0 || !v.still {
		v.newest++
	}
	p := block.Position{Epoch: 1, Seq: v.newest}
	point := Point{ID: p.String(), Position: p, Time: time.Unix(1, 0).UTC(), Kind: "crash"}
	if p.Seq <= v.doubtful {
		point.InDoubt = []Doubt{{Cause: "different", Bytes: 4096}}
	}
	return point, nil
}

// Materialise implements Recoverer.
func (v *vault) Materialise(ctx context.Context, _ block.MachineID, at block.Position, dir, format string, progress func(inventory.JobProgress)) ([]Copy, error) {
	v.mu.Lock()
	v.materialised = append(v.materialised, at)
	attempt := len(v.materialised)
	v.mu.Unlock()
	progress(inventory.JobProgress{Done: 1, Total: 2})
	if v.block != nil {
		v.begun <- struct{}{}
		select {
		case <-v.block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if v.fail != nil {
		if err := v.fail(attempt); err != nil {
			return nil, err
		}
	}
	return []Copy{{Disk: block.DiskIDFromName("a"), Name: "a", File: filepath.Join(dir, "a."+format), Size: 1 << 30}}, nil
}

// Remove implements Recoverer.
func (v *vault) Remove(_ context.Context, _ block.MachineID, dir string) ([]string, error) {
	v.removed = append(v.removed, dir)
	return []string{dir + "/a.raw"}, nil
}

func (v *vault) positions() []block.Position {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]block.Position{}, v.materialised...)
}

// rig is failovers over a double.
type rig struct {
	*Failovers
	t         *testing.T
	vault     *vault
	inventory *inventory.Inventory
	machine   block.MachineID
	house     *house
	proofs    string
	checks    string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	inv, err := inventory.Open(t.Context(), filepath.Join(t.TempDir(), "inventory.db"), time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = inv.Close() })
	r := &rig{t: t, vault: &vault{}, inventory: inv, machine: block.NewMachineID(), house: newHouse(), proofs: t.TempDir(), checks: t.TempDir()}
	if _, err := inv.Adopt(t.Context(), r.machine, "web1", nil, nil); err != nil {
		t.Fatal(err)
	}
	r.restart()
	return r
}

// restart is a new process over the same inventory.
func (r *rig) restart() {
	rooms := Rooms{Inventory: r.inventory, Points: r.vault, Recoverer: r.vault, Disks: r.house, Compute: r.house, Facts: r.house, Proofs: r.proofs, Checks: r.checks}
	d := NewDriver(r.inventory, Plans(rooms), "control plane", slog.New(slog.DiscardHandler))
	r.Failovers = New(rooms, "/recovered", d)
}

// run runs the driver; the function stops it.
func (r *rig) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		r.driver.Run(ctx)
		close(done)
	}()
	return func() {
		cancel()
		<-done
	}
}

func (r *rig) start(kind Kind) Failover {
	r.t.Helper()
	f, err := r.Start(r.t.Context(), Request{Kind: kind, Machine: r.machine, AskedBy: "admin"})
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

// ended waits for the end of a job.
func (r *rig) ended(id string) inventory.Job {
	r.t.Helper()
	for range 1000 {
		j, err := r.inventory.Job(r.t.Context(), id)
		if err != nil {
			r.t.Fatal(err)
		}
		if j.Status != inventory.JobQueued && j.Status != inventory.JobRunning {
			return j
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.t.Fatalf("job %s does not end", id)
	return inventory.Job{}
}

func want(t *testing.T, err error, code problem.Code, words ...string) {
	t.Helper()
	if problem.CodeOf(err) != code {
		t.Fatalf("%v, want code %s", err, code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestFailoverAndCleanup(t *testing.T) {
	r := newRig(t)
	defer r.run()()
	f := r.start(Test)
	r.ended(f.ID)
	f, err := r.Get(t.Context(), f.ID)
	if err != nil || f.Status != inventory.JobDone || f.Point == nil || len(f.Copies) != 1 || !strings.HasPrefix(f.Copies[0].File, "/recovered/"+r.machine.String()) {
		t.Fatalf("%+v, %v", f, err)
	}
	job, err := r.Clean(t.Context(), f.ID, false, "admin")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.Clean(t.Context(), f.ID, false, "admin"); err != nil && problem.CodeOf(err) != problem.Conflict || err == nil && again.ID != job.ID {
		t.Fatal("asked twice:", again, err)
	}
	if j := r.ended(job.ID); j.Status != inventory.JobDone {
		t.Fatal(j.Problem)
	}
	if f, err = r.Get(t.Context(), f.ID); err != nil || f.Status != inventory.JobCleaned || len(r.vault.removed) != 1 || r.vault.removed[0] != f.Dir {
		t.Fatal(f, r.vault.removed, err)
	}
	_, err = r.Clean(t.Context(), f.ID, true, "admin")
	want(t, err, problem.Conflict, "already")
	_, err = r.Get(t.Context(), job.ID)
	want(t, err, problem.NotFound, "not a failover")
	list, err := r.List(t.Context(), r.machine)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
}

func TestWhatTakesOverIsRemovedByForceOnly(t *testing.T) {
	r := newRig(t)
	defer r.run()()
	f := r.start(Run)
	r.ended(f.ID)
	_, err := r.Clean(t.Context(), f.ID, false, "admin")
	want(t, err, problem.Conflict, "--force", f.Dir)
	if len(r.vault.removed) != 0 {
		t.Fatal("removed all the same")
	}
	job, err := r.Clean(t.Context(), f.ID, true, "admin")
	if err != nil {
		t.Fatal(err)
	}
	r.ended(job.ID)
}

func TestWhatCannotWorkFailsAtOnce(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]struct {
		request Request
		code    problem.Code
	}{
		"point":    {Request{Kind: Test, Machine: r.machine, Point: "yesterday"}, problem.PointUnknown},
		"format":   {Request{Kind: Test, Machine: r.machine, Format: "qcow2"}, problem.Invalid},
		"kind":     {Request{Kind: "failover-destroy", Machine: r.machine}, problem.Invalid},
		"relative": {Request{Kind: Test, Machine: r.machine, Dir: "here"}, problem.Invalid},
		"dots":     {Request{Kind: Test, Machine: r.machine, Dir: "/var/../etc"}, problem.Invalid},
	} {
		if _, err := r.Start(t.Context(), c.request); problem.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	if jobs, err := r.inventory.Jobs(t.Context(), inventory.JobFilter{}); err != nil || len(jobs) != 0 {
		t.Fatal(jobs, err)
	}
}

// TestKilledControlPlaneGoesOn: the job is taken up where it was, at the point that
// was chosen first, though there are newer ones by now.
func TestKilledControlPlaneGoesOn(t *testing.T) {
	r := newRig(t)
	r.vault.block, r.vault.begun = make(chan struct{}), make(chan struct{}, 10)
	stop := r.run()
	f := r.start(Test)
	<-r.vault.begun
	if j, err := r.Get(t.Context(), f.ID); err != nil || j.Progress == nil || j.Progress.Total != 2 {
		t.Error("no progress is told:", j.Progress, err)
	}
	_, err := r.Clean(t.Context(), f.ID, true, "admin")
	want(t, err, problem.Conflict, "under way")
	stop()
	if j, err := r.inventory.Job(t.Context(), f.ID); err != nil || j.Status != inventory.JobRunning {
		t.Fatal("an interrupted job must stay under way:", j.Status, err)
	}
	close(r.vault.block)
	r.restart()
	defer r.run()()
	j := r.ended(f.ID)
	if j.Status != inventory.JobDone {
		t.Fatal(j.Problem)
	}
	at := r.vault.positions()
	if len(at) != 2 || at[0] != at[1] {
		t.Errorf("materialised %v, want the same point twice", at)
	}
	if n := len(j.Steps[0].Attempts); n != 1 {
		t.Errorf("the first step was done and tried %d times", n)
	}
	if a := j.Steps[1].Attempts; len(a) != 2 || !a[0].Ended.IsZero() {
		t.Errorf("the attempt that was cut short must stay on record: %+v", a)
	}
}

func TestStepIsTriedAgainWhereThatCanHelp(t *testing.T) {
	r := newRig(t)
	r.vault.fail = func(attempt int) error {
		if attempt < 3 {
			return problem.New(problem.Unavailable, "wait", "the vault is out of reach")
		}
		return nil
	}
	defer r.run()()
	j := r.ended(r.start(Test).ID)
	if a := j.Steps[1].Attempts; j.Status != inventory.JobDone || len(a) != 3 || a[0].Problem.Code != problem.Unavailable || a[2].Problem != nil {
		t.Fatalf("%s %+v", j.Status, a)
	}
}

func TestStepThatCannotSucceedFailsTheJob(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]struct {
		err  error
		code problem.Code
	}{
		"foreign file": {problem.New(problem.Exists, "choose another directory", "a.raw is not ours"), problem.Exists},
		"unforeseen":   {errors.New("disk on fire"), problem.Internal},
	} {
		r.vault.fail = func(int) error { return c.err }
		stop := r.run()
		j := r.ended(r.start(Test).ID)
		stop()
		if j.Status != inventory.JobFailed || j.Problem.Code != c.code || len(j.Steps[1].Attempts) != 1 {
			t.Errorf("%s: %+v", name, j)
		}
	}
	events, err := r.inventory.Events(t.Context(), inventory.EventFilter{Type: "job-failed"})
	if err != nil || len(events) != 2 {
		t.Fatal(events, err)
	}
}

func TestJobOfAnotherVersionIsNotGuessedAt(t *testing.T) {
	r := newRig(t)
	j, err := r.inventory.AddJob(t.Context(), string(Test), r.machine, params{Point: "latest", Dir: "/x", Format: Raw}, "admin", []string{"some other step"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.run()()
	if j = r.ended(j.ID); j.Status != inventory.JobFailed || !strings.Contains(j.Problem.Detail, "another version") {
		t.Fatalf("%+v", j)
	}
}

func TestDirectoryBelongsToOneFailover(t *testing.T) {
	r := newRig(t)
	start := func(dir string) (Failover, error) {
		return r.Start(t.Context(), Request{Kind: Test, Machine: r.machine, Dir: dir})
	}
	first, err := start("/copies")
	if err != nil {
		t.Fatal(err)
	}
	_, err = start("/copies")
	want(t, err, problem.Exists, "/copies", first.ID)
	r.vault.fail = func(attempt int) error {
		if attempt == 1 {
			return problem.New(problem.Conflict, "free some", "no space")
		}
		return nil
	}
	defer r.run()()
	r.ended(first.ID)
	second, err := start("/copies") // goes on with what the first left
	if err != nil {
		t.Fatal(err)
	}
	r.ended(second.ID)
	_, err = r.Clean(t.Context(), first.ID, true, "admin")
	want(t, err, problem.Conflict, second.ID)
	if _, err = r.Clean(t.Context(), second.ID, false, "admin"); err != nil {
		t.Fatal(err)
	}
}

// TestAPointInDoubtIsRefused: at once, and also if "latest" has become one only when the
// job begins; who asks for it gets it, and is told.
func TestAPointInDoubtIsRefused(t *testing.T) {
	r := newRig(t)
	r.vault.doubtful = 1
	_, err := r.Start(t.Context(), Request{Kind: Test, Machine: r.machine, AskedBy: "admin"})
	want(t, err, problem.PointInDoubt, "1.1", "4096 bytes different", "--in-doubt")
	late := r.start(Test)
	r.vault.doubtful = 1 << 40
	asked, err := r.Start(t.Context(), Request{Kind: Test, Machine: r.machine, InDoubt: true, AskedBy: "admin", Dir: "/elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.run()()
	if j := r.ended(late.ID); j.Status != inventory.JobFailed || j.Problem.Code != problem.PointInDoubt {
		t.Errorf("%+v", j)
	}
	r.ended(asked.ID)
	f, err := r.Get(t.Context(), asked.ID)
	if err != nil || f.Status != inventory.JobDone || len(f.Point.InDoubt) != 1 {
		t.Errorf("%+v, %v", f, err)
	}
}
