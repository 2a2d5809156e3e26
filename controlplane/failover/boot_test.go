package failover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

func (r *rig) boot(kind Kind, b Boot) Failover {
	r.t.Helper()
	if kind == RunBoot && b.Source == "" {
		b.Source = SourceGone
	}
	f, err := r.Start(r.t.Context(), Request{Kind: kind, Machine: r.machine, Boot: &b, AskedBy: "admin"})
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

// shown waits for the end and returns the failover.
func (r *rig) shown(id string) Failover {
	r.t.Helper()
	r.ended(id)
	f, err := r.Get(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

// clean cleans a failover up and checks that nothing is left.
func (r *rig) clean(id string) {
	r.t.Helper()
	job, err := r.Clean(r.t.Context(), id, true, "admin")
	if err != nil {
		r.t.Fatal(err)
	}
	if j := r.ended(job.ID); j.Status != inventory.JobDone {
		r.t.Fatal(j.Problem)
	}
	r.nothingLeft()
}

func (r *rig) nothingLeft() {
	r.t.Helper()
	h := r.house
	if len(h.running) != 0 || len(h.serving) != 0 || len(h.locked) != 0 || len(h.wrong) != 0 {
		r.t.Errorf("left: machines %v, disks %v, points %v; wrong: %q", h.running, h.serving, h.locked, h.wrong)
	}
}

func (r *rig) state() inventory.State {
	r.t.Helper()
	m, err := r.inventory.Machine(r.t.Context(), r.machine)
	if err != nil {
		r.t.Fatal(err)
	}
	facts, err := r.inventory.Facts(r.t.Context(), m, func(block.MachineID) inventory.Replication { return inventory.Replication{} })
	if err != nil {
		r.t.Fatal(err)
	}
	return inventory.Derive(facts).State
}

func TestTestFailoverBootsAndLeavesNothing(t *testing.T) {
	r := newRig(t)
	r.house.source = Hardware{Firmware: UEFI, Memory: 2 << 30, CPUs: 4, Bus: NVMe, Cards: []Card{{MAC: "52:54:00:00:00:01", Virtio: true}}}
	defer r.run()()
	f := r.shown(r.boot(TestBoot, Boot{Hardware: Hardware{Memory: 1 << 30}}).ID)
	if f.Status != inventory.JobDone || f.Proof == nil || f.Proof.By != byLogin || f.Proof.Said != "web1 login:" || f.Replica.PID != 4711 {
		t.Fatalf("%+v, %+v", f, f.Problem)
	}
	want := Hardware{Firmware: UEFI, Memory: 1 << 30, CPUs: 4, Bus: NVMe, Network: Isolated}
	got := *f.Hardware
	if got.Firmware != want.Firmware || got.Memory != want.Memory || got.CPUs != want.CPUs || got.Bus != want.Bus || got.Network != want.Network ||
		len(got.Cards) != 1 || got.Forward[0] != 22 {
		t.Errorf("%+v, want the source's but for what was asked for: %+v", got, want)
	}
	if state := r.state(); state != inventory.Unprotected {
		t.Errorf("a test made the machine %s", state)
	}
	if shot, err := os.ReadFile(f.Proof.Screenshot); err != nil || string(shot) != "a picture" {
		t.Errorf("the screenshot: %q, %v", shot, err)
	}
	r.clean(f.ID)
	if shot, err := r.Screenshot(t.Context(), f.ID); err != nil || string(shot) != "a picture" {
		t.Errorf("the screenshot outlives the machine: %q, %v", shot, err)
	}
}

// TestKilledAtEachStep: a control plane that dies before or after any outside call of a
// boot, of a change of the point or of a clean-up, with what it did done or not, is
// followed by one that goes on. There is one machine, of the point that was chosen, and
// its clean-up leaves nothing.
func TestKilledAtEachStep(t *testing.T) {
	for name, ask := range map[string]func(r *rig, running string) (job string){
		"boot":  nil,
		"drill": drillAlone, "drill that fails": drillAlone,
		"change of the point": func(r *rig, id string) string {
			if _, err := r.ChangePoint(r.t.Context(), id, "latest", false, true); err != nil {
				r.t.Fatal(err)
			}
			return id
		},
		"clean-up": func(r *rig, id string) string {
			job, err := r.Clean(r.t.Context(), id, true, "admin")
			if err != nil {
				r.t.Fatal(err)
			}
			return job.ID
		},
	} {
		t.Run(name, func(t *testing.T) { killedAtEachStep(t, ask, name == "drill that fails") })
	}
}

// drillAlone has a drill of a machine of which nothing else is up.
func drillAlone(r *rig, id string) string {
	stop := r.run()
	r.clean(id)
	stop()
	r.house.booted = nil
	f, err := r.StartDrill(r.t.Context(), r.machine, "admin")
	if err != nil {
		r.t.Fatal(err)
	}
	return f.ID
}

func killedAtEachStep(t *testing.T, ask func(*rig, string) string, panics bool) {
	// begun has the job queued, and nothing of it done.
	begun := func(t *testing.T) (r *rig, failover, job string) {
		r = newRig(t)
		if ask == nil {
			f := r.boot(RunBoot, Boot{})
			return r, f.ID, f.ID
		}
		stop := r.run()
		f := r.shown(r.boot(RunBoot, Boot{}).ID)
		stop()
		if panics {
			r.house.sight = Sight{Console: "Kernel panic - not syncing: no init"}
		}
		return r, f.ID, ask(r, f.ID)
	}
	var calls []string
	record, _, job := begun(t)
	record.house.step = func(call string) error { calls = append(calls, call); return nil }
	stop := record.run()
	record.ended(job)
	stop()
	if len(calls) < 6 {
		t.Fatalf("only %d calls: %v", len(calls), calls)
	}
	for die, call := range calls {
		t.Run(fmt.Sprintf("%d %s", die, call), func(t *testing.T) {
			r, id, job := begun(t)
			n, died := 0, make(chan struct{})
			r.house.step = func(string) error {
				n++
				if n == die+1 {
					close(died)
				}
				if n > die { // the dead do nothing more
					return context.Canceled
				}
				return nil
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			r.house.kill = func() { cancel(errors.New("killed")) }
			gone := make(chan struct{})
			go func() { r.driver.Run(ctx); close(gone) }()
			<-died
			<-gone
			r.house.step, r.house.kill = nil, nil
			if j, err := r.inventory.Job(t.Context(), job); err != nil || j.Status != inventory.JobRunning {
				t.Fatal("the job must stay under way:", j.Status, err)
			}
			r.restart()
			defer r.run()()
			j := r.ended(job)
			if j.Kind == string(Drill) {
				if want := map[bool]inventory.JobStatus{true: inventory.JobFailed, false: inventory.JobDone}[panics]; j.Status != want {
					t.Errorf("%s, want %s: %v", j.Status, want, j.Problem)
				}
				r.nothingLeft()
				return
			}
			if j.Status != inventory.JobDone {
				t.Fatal(j.Problem)
			}
			f := r.shown(id)
			if f.Status == inventory.JobCleaned {
				r.nothingLeft()
				return
			}
			if last := r.house.booted[len(r.house.booted)-1]; len(r.house.running) != 1 || last.String() != f.Point.ID {
				t.Fatalf("%v run, booted %v, chosen %v", r.house.running, r.house.booted, f.Point)
			}
			r.clean(id)
		})
	}
}

// TestRunCanChangeItsPointUntilItIsCommitted, and the machine's state tells of it.
func TestRunCanChangeItsPointUntilItIsCommitted(t *testing.T) {
	r := newRig(t)
	defer r.run()()
	_, err := r.Start(t.Context(), Request{Kind: RunBoot, Machine: r.machine, Boot: &Boot{}, AskedBy: "admin"})
	want(t, err, problem.Invalid, "--source-is-gone", "--without-shutdown")
	f := r.shown(r.boot(RunBoot, Boot{}).ID)
	first := f.Point.ID
	if state := r.state(); state != inventory.FailedOver {
		t.Errorf("the machine is %s, want FailedOver", state)
	}
	_, err = r.Start(t.Context(), Request{Kind: RunBoot, Machine: r.machine, Boot: &Boot{Source: SourceGone}, AskedBy: "admin"})
	want(t, err, problem.Conflict, f.ID, "change-point")

	_, err = r.ChangePoint(t.Context(), f.ID, "latest", false, false)
	want(t, err, problem.Conflict, "--force")
	_, err = r.ChangePoint(t.Context(), f.ID, "yesterday", false, true)
	want(t, err, problem.PointUnknown, "yesterday")
	if len(r.house.running) != 1 {
		t.Fatal("a request that was refused took the machine down")
	}
	if _, err = r.ChangePoint(t.Context(), f.ID, "latest", false, true); err != nil {
		t.Fatal(err)
	}
	f = r.shown(f.ID)
	if f.Status != inventory.JobDone || f.Point.ID == first || len(r.house.booted) != 2 || r.house.booted[1].String() != f.Point.ID || len(r.house.locked) != 1 {
		t.Fatalf("%s %v: point %s after %s, booted %v, locked %v", f.Status, f.Problem, f.Point.ID, first, r.house.booted, r.house.locked)
	}
	j, err := r.inventory.Job(t.Context(), f.ID)
	if err != nil || len(j.Steps[3].Attempts) != 2 {
		t.Errorf("both boots must stay on record: %+v, %v", j.Steps[3], err)
	}

	for range 2 { // the second changes nothing
		if f, err = r.Commit(t.Context(), f.ID); err != nil || f.Status != inventory.JobCommitted {
			t.Fatal(f, err)
		}
	}
	if state := r.state(); state != inventory.Committed {
		t.Errorf("the machine is %s, want Committed", state)
	}
	_, err = r.ChangePoint(t.Context(), f.ID, "latest", false, true)
	want(t, err, problem.Conflict, "final")
	_, err = r.Clean(t.Context(), f.ID, false, "admin")
	want(t, err, problem.Conflict, "--force")
	r.clean(f.ID)
	if state := r.state(); state != inventory.Unprotected {
		t.Errorf("after the clean-up the machine is %s", state)
	}
}

// TestMachineThatWentOffIsPoweredOnAgain with its disks as they are, and is as final as it
// was; one that runs goes on.
func TestMachineThatWentOffIsPoweredOnAgain(t *testing.T) {
	r := newRig(t)
	defer r.run()()
	f := r.shown(r.boot(RunBoot, Boot{}).ID)
	if _, err := r.Commit(t.Context(), f.ID); err != nil {
		t.Fatal(err)
	}
	for _, off := range []bool{true, false} {
		before := len(r.house.booted)
		r.house.mu.Lock()
		if off {
			clear(r.house.running)
			clear(r.house.serving) // its host lost its power
		}
		r.house.mu.Unlock()
		if _, err := r.PowerOn(t.Context(), f.ID); err != nil {
			t.Fatal(err)
		}
		again := r.shown(f.ID)
		if again.Status != inventory.JobCommitted || again.Point.ID != f.Point.ID || len(r.house.running) != 1 || len(r.house.booted)-before != map[bool]int{true: 1}[off] {
			t.Errorf("off %v: %s %v, %d boots before and %v after", off, again.Status, again.Problem, before, r.house.booted)
		}
	}
	r.clean(f.ID)
	_, err := r.PowerOn(t.Context(), f.ID)
	want(t, err, problem.Conflict, f.ID)
	copies := r.start(Test)
	r.ended(copies.ID)
	_, err = r.PowerOn(t.Context(), copies.ID)
	want(t, err, problem.Conflict, "copies")
}

// TestAPointOfTwoMachinesIsKeptForTheSecond: of a source that is gone, latest is the same
// for everybody.
func TestAPointOfTwoMachinesIsKeptForTheSecond(t *testing.T) {
	r := newRig(t)
	r.vault.still = true
	defer r.run()()
	a, b := r.shown(r.boot(TestBoot, Boot{}).ID), r.shown(r.boot(RunBoot, Boot{}).ID)
	if a.Point.ID != b.Point.ID {
		t.Fatal(a.Point.ID, b.Point.ID)
	}
	job, err := r.Clean(t.Context(), a.ID, false, "admin")
	if err != nil {
		t.Fatal(err)
	}
	r.ended(job.ID)
	if len(r.house.locked) != 1 {
		t.Fatal("the point was given back to the retention while a machine runs from it")
	}
	r.clean(b.ID)
}

// TestWhatIsNotUpFails, says what was seen, keeps it, and leaves the machine for whoever
// wants to look.
func TestWhatIsNotUpFails(t *testing.T) {
	for name, c := range map[string]struct {
		sight Sight
		boot  Boot
		check string
		words []string
	}{
		"silent":                              {Sight{}, Boot{Deadline: 1}, "", []string{"not up within 1s", "screen.png"}},
		"panic":                               {Sight{Console: "[ 1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\nguest login: "}, Boot{}, "", []string{"panicked", "Unable to mount root fs"}},
		"no prompt, though something like it": {Sight{Console: "Last login: today\nlogin: 3 users\n"}, Boot{Deadline: 1}, "", []string{"not up"}},
		"the check is not satisfied, though there is a login": {Sight{Console: "web1 login: "}, Boot{Check: "app", Deadline: 1}, "echo no database at $UNDERSTUDY_PORT_22; exit 3",
			[]string{"exit status 3", "no database at 127.0.0.1:40022"}},
		"the check hangs": {Sight{Console: "web1 login: "}, Boot{Check: "app", Deadline: 1}, "echo waiting; sleep 60", []string{"not up within 1s"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.house.sight = c.sight
			r.check(c.check)
			defer r.run()()
			f := r.shown(r.boot(TestBoot, c.boot).ID)
			if f.Status != inventory.JobFailed || f.Problem.Code != problem.NotUp {
				t.Fatalf("%s, %+v", f.Status, f.Problem)
			}
			for _, w := range c.words {
				if !strings.Contains(f.Problem.Detail, w) {
					t.Errorf("%q does not say %q", f.Problem.Detail, w)
				}
			}
			if len(r.house.running) != 1 {
				t.Error("nobody can look at it")
			}
			if kept, err := os.ReadFile(filepath.Join(r.proofs, f.ID, consoleName)); err != nil || string(kept) != c.sight.Console {
				t.Errorf("kept of the console: %q, %v", kept, err)
			}
			r.clean(f.ID)
		})
	}
}

// check makes the operator's check, if there is one.
func (r *rig) check(script string) {
	r.t.Helper()
	if script == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(r.checks, "app"), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		r.t.Fatal(err)
	}
}

func TestWhatShowsThatItIsUp(t *testing.T) {
	for name, c := range map[string]struct {
		sight  Sight
		check  string
		by     string
		saying string
	}{
		"a login":                    {Sight{Console: "...\r\n\r\ndb1 login: "}, "", byLogin, "db1 login:"},
		"its agent":                  {Sight{Heartbeat: "understudy-agent 1: db1 is up\n"}, "", byAgent, "understudy-agent 1: db1 is up"},
		"a check, without any login": {Sight{}, "test -e ready || { touch ready; exit 1; }; echo $UNDERSTUDY_POINT", byScript, "1."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			r := newRig(t)
			r.house.sight = c.sight
			r.check(c.check)
			b := Boot{}
			if c.check != "" {
				b.Check = "app"
			}
			defer r.run()()
			f := r.shown(r.boot(TestBoot, b).ID)
			if f.Status != inventory.JobDone || !f.Proof.Up || f.Proof.By != c.by || !strings.HasPrefix(f.Proof.Said, c.saying) {
				t.Errorf("%s %v: %+v", f.Status, f.Problem, f.Proof)
			}
		})
	}
}

// TestDisksServerThatDiesIsReplaced while the machine has not been powered on.
func TestDisksServerThatDiesIsReplaced(t *testing.T) {
	r := newRig(t)
	r.house.dying = 1
	defer r.run()()
	f := r.shown(r.boot(TestBoot, Boot{}).ID)
	if f.Status != inventory.JobDone || len(r.house.serving) != 1 {
		t.Fatalf("%s, %v, serving %v", f.Status, f.Problem, r.house.serving)
	}
	r.clean(f.ID)
}

// TestAMachineThatWentOffFails at once, with what the hypervisor said last.
func TestAMachineThatWentOffFails(t *testing.T) {
	r := newRig(t)
	r.house.sight = Sight{Last: "terminating on signal 9"}
	r.house.step = func(call string) error {
		if call == "before look" {
			clear(r.house.running)
		}
		return nil
	}
	defer r.run()()
	begun := time.Now()
	f := r.shown(r.boot(TestBoot, Boot{}).ID)
	// The first look sees it run, the second does not.
	if f.Status != inventory.JobFailed || !strings.Contains(f.Problem.Detail, "powered off") || !strings.Contains(f.Problem.Detail, "signal 9") {
		t.Errorf("%s %+v", f.Status, f.Problem)
	}
	if time.Since(begun) > 20*time.Second {
		t.Error("the deadline was waited for")
	}
}

func TestBootsThatCannotWorkFailAtOnce(t *testing.T) {
	r := newRig(t)
	r.check("exit 0")
	if err := os.Chmod(filepath.Join(r.checks, "app"), 0o777); err != nil { //nolint:gosec // that is what is refused
		t.Fatal(err)
	}
	occupied := t.TempDir()
	if err := os.WriteFile(filepath.Join(occupied, "console"), []byte("somebody's"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		request Request
		code    problem.Code
	}{
		"somebody's":      {Request{Boot: &Boot{}, Dir: occupied}, problem.Exists},
		"firmware":        {Request{Boot: &Boot{Hardware: Hardware{Firmware: "coreboot"}}}, problem.Invalid},
		"network":         {Request{Boot: &Boot{Hardware: Hardware{Network: "bridge"}}}, problem.Invalid},
		"bus":             {Request{Boot: &Boot{Hardware: Hardware{Bus: "floppy"}}}, problem.Invalid},
		"memory":          {Request{Boot: &Boot{Hardware: Hardware{Memory: 1}}}, problem.Invalid},
		"port":            {Request{Boot: &Boot{Hardware: Hardware{Forward: []int{0}}}}, problem.Invalid},
		"deadline":        {Request{Boot: &Boot{Deadline: -1}}, problem.Invalid},
		"check elsewhere": {Request{Boot: &Boot{Check: "../../bin/sh"}}, problem.Invalid},
		"no such check":   {Request{Boot: &Boot{Check: "none"}}, problem.NotFound},
		"anybody's check": {Request{Boot: &Boot{Check: "app"}}, problem.Conflict},
		"long path":       {Request{Boot: &Boot{}, Dir: "/" + strings.Repeat("x", 100)}, problem.Invalid},
		"copies":          {Request{Boot: &Boot{}, Format: Raw}, problem.Invalid},
		"no boot":         {Request{}, problem.Invalid},
	} {
		c.request.Kind, c.request.Machine = TestBoot, r.machine
		if _, err := r.Start(t.Context(), c.request); problem.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	if jobs, err := r.inventory.Jobs(t.Context(), inventory.JobFilter{}); err != nil || len(jobs) != 0 {
		t.Fatal(jobs, err)
	}
}
