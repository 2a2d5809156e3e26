//go:build testbed

package testbed

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// TestUncleanStop: the machine lost power. The kernel's maps and the memory journal are
// gone, and writes happened that nobody saw. A compare by hashes finds what differs and
// sends little else.
func TestUncleanStop(t *testing.T) {
	r := protected(t, setup{size: 768 * mib, seed: 100, work: func(w *lab.Workload) { w.Churn = 0 }})
	before := r.untilPoint(time.Now())
	r.machine.Agent.Kill()
	r.must(r.machine.ForgetBoot(t.Context())) // pins, and what lay in memory
	r.live(2 * time.Second)                   // writes that no capture sees
	r.must(r.machine.Agent.Start())
	p := r.untilEpochAfter(1)
	if p.Reason != "unclean-stop" {
		t.Errorf("epoch %d began for %q, want unclean-stop", p.Epoch, p.Reason)
	}
	// Of 200 MB and more that lie there.
	if sent := r.machine.BaseSent(); sent == 0 || sent > 100*mib {
		t.Errorf("the resync sent %d bytes: want little besides what changed", sent)
	} else {
		t.Logf("the resync sent %d bytes", sent)
	}
	r.wantEvent("unclean-stop")
	r.verifyNow()
	r.verify(before.Format(time.RFC3339Nano))
}

// TestNothingLeftAfterDetach: an agent that is taken off leaves nothing in the kernel.
func TestDetachLeavesNothing(t *testing.T) {
	r := protected(t, setup{})
	r.must(r.machine.Agent.Stop(20 * time.Second))
	r.must(r.machine.Detach(t.Context()))
	if pins, err := filepath.Glob("/sys/fs/bpf/understudy/" + r.Instance("*") + "/*"); err != nil || len(pins) > 0 {
		t.Errorf("left in the kernel: %v (%v)", pins, err)
	}
	r.live(time.Second)
}
