//go:build testbed

package testbed

import (
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// TestConnectionsCutAtAnyByte: half a frame is no frame, and what follows is sent once.
func TestConnectionsCutAtAnyByte(t *testing.T) {
	r := protected(t, setup{proxied: true, work: func(w *lab.Workload) { w.Churn = 1 << 20 }})
	r.proxy.CutWithin(mib / 2)
	r.live(12 * time.Second)
	if n := r.proxy.Cuts(); n < 5 {
		t.Fatalf("only %d cuts: this proves nothing", n)
	}
	r.proxy.CutWithin(0)
	r.verifyNow()
	r.wantEpoch(1)
	t.Logf("%d cuts", r.proxy.Cuts())
}

// TestRelayOutOfReach: the RPO shown grows honestly, the journal holds what is not
// sent, and after the return everything is there.
func TestRelayOutOfReach(t *testing.T) {
	r := protected(t, setup{proxied: true})
	r.proxy.Close()
	lost := time.Now()
	r.live(6 * time.Second)
	v := r.view()
	if v.Status.RPO == nil || *v.Status.RPO < 5 {
		t.Errorf("after 6 s without a relay the RPO shown is %v", v.Status.RPO)
	}
	if v.PointTime().After(lost.Add(time.Second)) {
		t.Errorf("a point of %s, but the relay was out of reach from %s on", v.PointTime(), lost)
	}
	r.proxy.Open()
	r.verifyNow()
	r.verify(lost.Add(3 * time.Second).Format(time.RFC3339Nano)) // a moment of the outage
	r.wantEpoch(1)
}

// TestRelayFrozen: a relay that is there and does not answer costs nothing either. Here
// it is reached by QUIC.
func TestRelayFrozen(t *testing.T) {
	r := protected(t, setup{agent: []string{"--transport", "quic"}})
	if v := r.view(); v.Replication.Transport != "quic" {
		t.Errorf("the agent speaks %q", v.Replication.Transport)
	}
	r.must(r.site.Serve.Signal(syscall.SIGSTOP))
	r.live(5 * time.Second)
	r.must(r.site.Serve.Signal(syscall.SIGCONT))
	r.verifyNow()
	r.wantEpoch(1)
}

// TestIdleMachineStaysRecoverable: nothing is written, and the points go on.
func TestIdleMachineStaysRecoverable(t *testing.T) {
	r := protected(t, setup{})
	r.must(r.work.Stop())
	r.live(3 * time.Second)
	r.untilPoint(time.Now())
	r.until(20*time.Second, "RPO below 5 s of an idle machine", func(v lab.View) bool { return v.Status.RPO != nil && *v.Status.RPO < 5 })
	r.verify("latest")
}
