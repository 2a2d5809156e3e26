//go:build testbed

package testbed

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// TestAgentKilledUnderLoad: kill -9 costs neither a write nor a resync.
func TestAgentKilledUnderLoad(t *testing.T) {
	r := protected(t, setup{})
	for range 4 {
		r.live(time.Duration(500+rand.IntN(1500)) * time.Millisecond)
		r.machine.Agent.Kill()
		r.live(time.Duration(rand.IntN(1500)) * time.Millisecond)
		r.must(r.machine.Agent.Start())
	}
	r.verifyNow()
	r.wantEpoch(1)
}

// TestAgentKilledDuringTheFirstCopy: it goes on where it was and comes to its end.
func TestAgentKilledDuringTheFirstCopy(t *testing.T) {
	r := newRig(t, setup{size: 768 * mib, seed: 200})
	r.must(r.machine.Protect(t.Context(), r.disks...))
	for range 3 {
		r.until(30*time.Second, "first copy", func(v lab.View) bool { return v.Protection != nil && v.Protection.Base != nil })
		r.live(200 * time.Millisecond)
		r.machine.Agent.Kill()
		r.must(r.machine.Agent.Start())
	}
	r.untilProtected()
	r.verifyNow()
	r.wantEpoch(1)
}

// TestControlPlaneKilledUnderLoad: what was acknowledged to an application is never
// lost, and the agent sends on from where the relay was.
func TestControlPlaneKilledUnderLoad(t *testing.T) {
	r := protected(t, setup{})
	for range 3 {
		r.live(time.Duration(500+rand.IntN(1500)) * time.Millisecond)
		r.site.Serve.Kill()
		r.live(time.Duration(rand.IntN(1500)) * time.Millisecond)
		r.must(r.site.Start(t.Context()))
	}
	r.verifyNow()
	r.wantEpoch(1)
}

// TestPointsMadeWhileCatchingUpAreHonest: after a pause the ring holds seconds of
// writes. Each point made from them must hold all that was acknowledged before the
// time it bears, and nothing begun after it.
func TestPointsMadeWhileCatchingUpAreHonest(t *testing.T) {
	r := protected(t, setup{
		agent: []string{"--ring-bytes", inBytes(256 * mib)},
		work:  func(w *lab.Workload) { w.Pause, w.Churn = time.Millisecond, 1<<20 },
	})
	paused := time.Now()
	r.must(r.machine.Agent.Signal(syscall.SIGSTOP))
	r.live(3 * time.Second)
	resumed := time.Now()
	r.must(r.machine.Agent.Signal(syscall.SIGCONT))
	r.live(2 * time.Second)
	r.untilPoint(time.Now())
	r.wantEpoch(1)
	points := r.points(paused.Add(-time.Second), resumed.Add(2*time.Second))
	if len(points) < 4 {
		t.Fatalf("only %d points around the pause", len(points))
	}
	for i := range 4 {
		r.verify(points[i*(len(points)-1)/3].ID)
	}
}

// TestControlPlaneStopsAndStartsCleanly: SIGTERM ends both with exit code 0, and
// nothing is resynced when they return.
func TestCleanStops(t *testing.T) {
	r := protected(t, setup{})
	r.must(r.site.Serve.Stop(20 * time.Second))
	r.live(time.Second)
	r.must(r.site.Start(t.Context()))
	r.must(r.machine.Agent.Stop(20 * time.Second))
	r.live(time.Second)
	r.must(r.machine.Agent.Start())
	r.verifyNow()
	r.wantEpoch(1)
}
