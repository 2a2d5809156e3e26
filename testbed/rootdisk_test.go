//go:build testbed

package testbed

import (
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// TestRootDiskCleanReboot: a machine whose root disk is protected shuts down and boots
// again, twice. No epoch begins, no write is lost, and the last point of each life is what
// the disks held when the power was off.
func TestRootDiskCleanReboot(t *testing.T) {
	r := protectedRoot(t)
	r.verifyFresh()
	for range 2 {
		promised := r.promisedSince(0)
		journal := r.journalExtents()
		at, disks := r.off()
		r.must(r.guest.Start(t.Context()))
		r.promisedSince(promised)
		r.untilPoint(r.now())
		r.wantEpoch(1)
		r.wantSame(at, disks, journal)
	}
	r.wantEvent("clean-reboot")
	promised := r.promisedSince(0)
	r.must(r.guest.Reboot(t.Context())) // without a power cycle
	r.promisedSince(promised)
	r.verifyFresh()
	r.wantEpoch(1)
	r.must(r.guest.Shutdown(t.Context()))
}

// TestRootDiskPowerCut: after a clean reboot, whose mark must not serve twice, the power
// goes. The disks are compared, and little is sent.
func TestRootDiskPowerCut(t *testing.T) {
	r := protectedRoot(t)
	r.must(r.guest.Shutdown(t.Context()))
	r.must(r.guest.Start(t.Context()))
	r.verifyFresh()
	r.wantEpoch(1)
	before := r.untilPoint(r.now())
	r.guest.PowerCut()
	r.must(r.guest.Start(t.Context()))
	r.wantUnclean(before)
}

// TestRootDiskPanic: the kernel panics. What only its memory had is gone.
func TestRootDiskPanic(t *testing.T) {
	r := protectedRoot(t)
	r.must(r.guest.Shutdown(t.Context()))
	r.must(r.guest.Start(t.Context()))
	r.verifyFresh()
	r.wantEpoch(1)
	before := r.untilPoint(r.now())
	r.must(r.guest.Panic(t.Context()))
	r.wantUnclean(before)
}

// TestRootDiskHookSkipped: the machine shuts down in order, but nothing seals the log; and
// another time the log is sealed, but the boot does not capture from its first write on.
func TestRootDiskHookSkipped(t *testing.T) {
	r := protectedRoot(t)
	r.verifyFresh()
	before := r.untilPoint(r.now())
	r.run("chmod -x /usr/lib/systemd/system-shutdown/understudy-agent")
	r.must(r.guest.Shutdown(t.Context()))
	r.must(r.guest.Start(t.Context()))
	r.wantUnclean(before)
	if e := r.lastEvent("unclean-stop"); !strings.Contains(e.Message, "did not stop in order") {
		t.Errorf("the event says %q", e.Message)
	}
	r.run("chmod +x /usr/lib/systemd/system-shutdown/understudy-agent; systemctl disable -q understudy-agent-early")
	before = r.untilPoint(r.now())
	r.must(r.guest.SetInitrd(r.image.Initrd())) // one from before the package
	r.must(r.guest.Shutdown(t.Context()))
	r.must(r.guest.Start(t.Context()))
	r.wantUncleanAfter(2, before)
	if e := r.lastEvent("unclean-stop"); !strings.Contains(e.Message, "not captured from the boot on") {
		t.Errorf("the event says %q", e.Message)
	}
}

// wantUnclean waits for the epoch after the first to protect the machine again.
func (r *guestRig) wantUnclean(before time.Time) {
	r.t.Helper()
	r.wantUncleanAfter(1, before)
}

func (r *guestRig) wantUncleanAfter(epoch uint64, before time.Time) {
	r.t.Helper()
	p := r.untilEpochAfter(epoch)
	if p.Reason != "unclean-stop" {
		r.t.Errorf("epoch %d began for %q, want unclean-stop", p.Epoch, p.Reason)
	}
	r.wantEvent("unclean-stop")
	r.t.Logf("resync: %s", r.run("grep 'base complete' /var/log/agent.log | tail -1"))
	r.verifyFresh()
	r.verify(before.Format(time.RFC3339Nano))
}

func (r *guestRig) lastEvent(typ string) lab.Event {
	r.t.Helper()
	events, err := r.site.Events(r.t.Context(), typ)
	r.must(err)
	if len(events) == 0 {
		r.t.Fatalf("no event %s", typ)
	}
	return events[len(events)-1]
}
