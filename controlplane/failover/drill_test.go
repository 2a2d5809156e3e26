package failover

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// policy makes the machine's policy want drills.
func (r *rig) policy(d inventory.Drill) {
	r.t.Helper()
	p := inventory.NewPolicy(inventory.DefaultPolicy)
	p.Drill = d
	if _, err := r.inventory.SetPolicy(r.t.Context(), p); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) events(kind string) []inventory.Event {
	r.t.Helper()
	events, err := r.inventory.Events(r.t.Context(), inventory.EventFilter{Type: kind})
	if err != nil {
		r.t.Fatal(err)
	}
	return events
}

// TestDrillCleansUpWhateverBecomesOfIt, and tells of it.
func TestDrillCleansUpWhateverBecomesOfIt(t *testing.T) {
	for name, c := range map[string]struct {
		sight  Sight
		step   func(call string) error
		status inventory.JobStatus
		kept   bool
	}{
		"up":                      {sight: Sight{Console: "web1 login: "}, status: inventory.JobDone, kept: true},
		"not up":                  {sight: Sight{Console: "Kernel panic - not syncing: no init"}, status: inventory.JobFailed, kept: true},
		"not even powered on":     {step: failing("before boot"), status: inventory.JobFailed},
		"powered on, then failed": {step: failing("after boot"), status: inventory.JobFailed},
		"no disks":                {step: failing("after serve"), status: inventory.JobFailed},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.house.sight, r.house.step = c.sight, c.step
			defer r.run()()
			f, err := r.StartDrill(t.Context(), r.machine, "admin")
			if err != nil {
				t.Fatal(err)
			}
			f = r.shown(f.ID)
			if f.Status != c.status {
				t.Fatalf("%s, %v", f.Status, f.Problem)
			}
			r.nothingLeft()
			kind := map[inventory.JobStatus]string{inventory.JobDone: "drill-passed", inventory.JobFailed: "drill-failed"}[c.status]
			if e := r.events(kind); len(e) != 1 || c.status == inventory.JobFailed && (e[0].Severity != desired.Error || e[0].Remedy == "") {
				t.Errorf("told: %+v", e)
			}
			if shot, err := r.Screenshot(t.Context(), f.ID); c.kept != (err == nil) || c.kept && string(shot) != "a picture" {
				t.Errorf("the screenshot: %q, %v", shot, err)
			}
			_, err = r.Clean(t.Context(), f.ID, true, "admin")
			want(t, err, problem.Conflict, "by itself")
			if all, err := r.List(t.Context(), r.machine); err != nil || len(all) != 0 {
				t.Errorf("a drill is listed among what is up: %+v, %v", all, err)
			}
		})
	}
}

func failing(at string) func(string) error {
	return func(call string) error {
		if call == at {
			return errors.New("the hypervisor is on fire")
		}
		return nil
	}
}

// TestDrillsAreStartedWhenTheyAreDue: at once, then as often as the policy wants, one at
// a time; not of machines without points, and none where nobody wants them.
func TestDrillsAreStartedWhenTheyAreDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		drills := func() int {
			all, err := r.Drills(t.Context(), r.machine)
			if err != nil {
				t.Fatal(err)
			}
			return len(all)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{}, 2)
		go func() { r.driver.Run(ctx); done <- struct{}{} }()
		go func() { r.FollowDrills(ctx); done <- struct{}{} }()
		time.Sleep(2 * time.Hour)
		if n := drills(); n != 0 {
			t.Fatalf("%d drills that nobody wants", n)
		}
		r.policy(inventory.Drill{DrillSeconds: 3600, DrillDeadline: 300})
		for hour := range 3 {
			time.Sleep(2 * time.Minute)
			if n := drills(); n != hour+1 {
				t.Fatalf("hour %d: %d drills", hour, n)
			}
			time.Sleep(55 * time.Minute)
			if n := drills(); n != hour+1 {
				t.Fatalf("hour %d: %d drills before the next is due", hour, n)
			}
			time.Sleep(4 * time.Minute)
		}
		// One that does not come up in time is followed by the next an hour later, not at once.
		r.house.mu.Lock()
		r.house.sight = Sight{}
		r.house.mu.Unlock()
		time.Sleep(70 * time.Minute)
		if failed := r.events("drill-failed"); len(failed) != 1 {
			t.Errorf("%d drills failed, want 1: %+v", len(failed), failed)
		}
		cancel()
		<-done
		<-done
		r.nothingLeft()
		if _, err := os.Stat(r.proofs); err != nil {
			t.Error(err)
		}
		if err := r.inventory.Close(); err != nil { // its goroutines belong to the bubble
			t.Error(err)
		}
	})
}

// TestDrillThatCannotBeginIsToldOnce: the check is gone.
func TestDrillThatCannotBeginIsToldOnce(t *testing.T) {
	r := newRig(t)
	r.policy(inventory.Drill{DrillSeconds: 86400, DrillCheck: "gone"})
	now := time.Now()
	for range 3 {
		if err := r.startDue(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	if failed := r.events("drill-failed"); len(failed) != 1 || failed[0].Remedy == "" {
		t.Errorf("%+v", failed)
	}
	all, err := r.Drills(t.Context(), r.machine)
	if err != nil || len(all) != 1 || all[0].Problem.Code != problem.NotFound {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestOldDrillsKeepNoPictures: a drill a week for years must not fill the control plane's
// disk. What came of each is known for ever.
func TestOldDrillsKeepNoPictures(t *testing.T) {
	r := newRig(t)
	defer r.run()()
	var drills []string
	for range keptProofs + 2 {
		f, err := r.StartDrill(t.Context(), r.machine, "admin")
		if err != nil {
			t.Fatal(err)
		}
		r.shown(f.ID)
		drills = append(drills, f.ID)
	}
	for i, id := range drills {
		_, err := os.Stat(filepath.Join(r.proofs, id))
		if kept := i >= 2; kept != (err == nil) {
			t.Errorf("drill %d of %d: kept %v, want %v", i+1, len(drills), err == nil, kept)
		}
	}
	if first := r.shown(drills[0]); first.Status != inventory.JobDone || !first.Proof.Up {
		t.Errorf("the first drill was %s, %+v", first.Status, first.Proof)
	}
}
