package failover

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// source is the agent of a machine that fails over: it reports, and answers a wish for a
// last point.
type source struct {
	r      *rig
	answer func(desired.PointWish) desired.PointState // nil: it does not
	stays  bool                                       // it says that it switches off, and does not
	phase  desired.Phase

	said *desired.PointState
	off  bool
}

func (s *source) speak() {
	s.r.t.Helper()
	d := desired.Disk{ID: block.DiskIDFromName("a"), Name: "a", Size: 1 << 30, SectorSize: 512}
	_, err := s.r.inventory.Record(s.r.t.Context(), s.r.machine, desired.Report{
		Version: desired.Version, Time: time.Now(), Instance: "x", Host: desired.Host{Hostname: "web1"}, Disks: []desired.Disk{d},
		Protection: &desired.Protection{Phase: s.phase, Point: s.said},
	})
	if err != nil {
		s.r.t.Error(err)
	}
}

// live is the agent until its machine is off, or stop is closed.
func (s *source) live(stop <-chan struct{}) {
	for every := time.Duration(0); !s.off; every += time.Second {
		if every%desired.ReportEvery == 0 {
			s.speak()
		}
		select {
		case <-stop:
			return
		case <-time.After(time.Second):
		}
		w, err := s.r.inventory.Desired(s.r.t.Context(), s.r.machine)
		if err != nil {
			s.r.t.Error(err)
			return
		}
		if s.answer != nil && w.Point.Off && (s.said == nil || w.Point.Once > s.said.Once) {
			made := s.answer(w.Point)
			made.Once, made.Time, made.Kind = w.Point.Once, time.Now(), desired.PointApp
			s.said = &made
			s.speak()
			s.off = made.Off && !s.stays
		}
	}
}

func obeys(w desired.PointWish) desired.PointState {
	return desired.PointState{Name: w.Name, Off: true, At: block.Position{Epoch: 1, Seq: 77}}
}

// withSource runs a rig whose source is s, in a bubble of fake time.
func withSource(t *testing.T, s *source, do func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		s.r = r
		if s.phase == "" {
			s.phase = desired.PhaseSteady
		}
		s.speak()
		if _, err := r.inventory.Protect(t.Context(), r.machine, []string{"a"}, ""); err != nil {
			t.Fatal(err)
		}
		stop, ended := make(chan struct{}), make(chan struct{})
		go func() { s.live(stop); close(ended) }()
		halt := r.run()
		do(r)
		halt()
		close(stop)
		<-ended
		if err := r.inventory.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestTheSourceIsOffBeforeItsReplicaBoots: the last point is the source's, and nothing was
// heard of it for a while when the replica was powered on. Another point later asks for
// nothing more.
func TestTheSourceIsOffBeforeItsReplicaBoots(t *testing.T) {
	s := &source{answer: obeys}
	withSource(t, s, func(r *rig) {
		var heard time.Duration
		r.house.step = func(call string) error {
			if call == "before boot" {
				m, _ := r.inventory.Machine(r.t.Context(), r.machine)
				heard = time.Since(m.Reported)
			}
			return nil
		}
		f := r.overAWhile(Boot{Source: SourceShutdown})
		if f.Status != inventory.JobDone || !s.off || heard < silence {
			r.t.Fatalf("%s %v; off: %v, heard %v before the boot", f.Status, f.Problem, s.off, heard)
		}
		if !strings.HasPrefix(s.said.Name, "failover-"+f.ID) {
			r.t.Errorf("the last point is %q", s.said.Name)
		}
		if !r.tells("failover", "switched off behind its last point, 1.77") {
			r.t.Error("nobody was told that the source is off")
		}
		asked := s.said.Once
		if _, err := r.ChangePoint(r.t.Context(), f.ID, "latest", false, true); err != nil {
			r.t.Fatal(err)
		}
		if f := r.shown(f.ID); f.Status != inventory.JobDone {
			r.t.Fatal(f.Problem)
		}
		if m, err := r.inventory.Machine(r.t.Context(), r.machine); err != nil || m.Point.Once != asked {
			r.t.Errorf("asked again: %d after %d, %v", m.Point.Once, asked, err)
		}
		r.clean(f.ID)
	})
}

// overAWhile runs a failover to its end, which may be minutes away.
func (r *rig) overAWhile(b Boot) Failover {
	f := r.boot(RunBoot, b)
	time.Sleep(2 * lastWithin)
	return r.shown(f.ID)
}

// tells reports whether there is an event of this type that says so.
func (r *rig) tells(event, what string) bool {
	return slices.ContainsFunc(r.events(event), func(e inventory.Event) bool { return strings.Contains(e.Message, what) })
}

// TestNoReplicaBootsBesideASourceThatGoesOn: whatever came of the request, it says why, and
// the request does not stand any more.
func TestNoReplicaBootsBesideASourceThatGoesOn(t *testing.T) {
	for name, c := range map[string]struct {
		source source
		words  string
	}{
		"it cannot": {source{answer: func(w desired.PointWish) desired.PointState {
			return desired.PointState{Name: w.Name, Problem: "a script hung"}
		}}, "a script hung"},
		"it is too old":   {source{answer: func(w desired.PointWish) desired.PointState { return desired.PointState{Name: w.Name} }}, "older version"},
		"another point":   {source{answer: func(desired.PointWish) desired.PointState { return desired.PointState{Name: "mine", Off: true} }}, "another point"},
		"it never does":   {source{}, "did not answer"},
		"it speaks again": {source{answer: obeys, stays: true}, "still speaks"},
	} {
		t.Run(name, func(t *testing.T) {
			s := c.source
			withSource(t, &s, func(r *rig) {
				f := r.overAWhile(Boot{Source: SourceShutdown})
				if f.Status != inventory.JobFailed || problem.CodeOf(f.Problem) != problem.Conflict || !strings.Contains(f.Problem.Error(), c.words) || !strings.Contains(f.Problem.Remedy, "--source-is-gone") {
					r.t.Errorf("%s: %v", f.Status, f.Problem)
				}
				if len(r.house.booted) != 0 {
					r.t.Error("a replica was booted")
				}
				if d, err := r.inventory.Desired(r.t.Context(), r.machine); err != nil || d.Point.Off {
					r.t.Errorf("it is wanted still: %+v, %v", d.Point, err)
				}
				r.clean(f.ID)
			})
		})
	}
}

// TestASourceThatCannotBeAskedIsRefusedAtOnce, before anything is written down.
func TestASourceThatCannotBeAskedIsRefusedAtOnce(t *testing.T) {
	for phase, words := range map[desired.Phase]string{desired.PhaseBase: "not protected now", desired.PhaseScan: "scans only"} {
		withSource(t, &source{phase: phase}, func(r *rig) {
			_, err := r.Start(r.t.Context(), Request{Kind: RunBoot, Machine: r.machine, Boot: &Boot{Source: SourceShutdown}, AskedBy: "admin"})
			want(r.t, err, problem.Conflict, words)
		})
	}
	s := &source{off: true}
	withSource(t, s, func(r *rig) {
		time.Sleep(heardWithin + time.Second)
		_, err := r.Start(r.t.Context(), Request{Kind: RunBoot, Machine: r.machine, Boot: &Boot{Source: SourceShutdown}, AskedBy: "admin"})
		want(r.t, err, problem.Conflict, "last heard", "--source-is-gone")
	})
}
