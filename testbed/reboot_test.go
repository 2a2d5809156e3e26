//go:build testbed

package testbed

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// TestUncleanStop: the machine lost power. The kernel's maps and the memory journal are
// gone, and writes happened that nobody saw. A compare by hashes finds what differs and
// sends little else.
func TestUncleanStop(t *testing.T) {
	r := protected(t, setup{})
	before := r.untilPoint(time.Now())
	r.machine.Agent.Kill()
	r.must(r.machine.ForgetBoot(t.Context())) // pins, and what lay in memory
	r.live(2 * time.Second)                   // writes that no capture sees
	r.must(r.machine.Agent.Start())
	var base desired.Progress // as far as the resync has come
	p := r.until(60*time.Second, "protection in a new epoch", func(v lab.View) bool {
		if v.Protection != nil && v.Protection.Base != nil {
			base = *v.Protection.Base
		}
		return v.Status.State == "Protected" && v.Protection.Epoch > 1
	}).Protection
	if p.Reason != "unclean-stop" {
		t.Errorf("epoch %d began for %q, want unclean-stop", p.Epoch, p.Reason)
	}
	t.Logf("resync: %+v", base)
	if base.Sent > base.Done/4 {
		t.Errorf("the resync read %d bytes and sent %d: want little besides what changed", base.Done, base.Sent)
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
