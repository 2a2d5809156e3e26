//go:build testbed

package testbed

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/guest"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// TestRootDiskCleanReboot: a machine whose root disk is protected shuts down and boots
// again, twice. No epoch begins, no write is lost, and the last point of each life is what
// the disks held when the power was off.
func TestRootDiskCleanReboot(t *testing.T) {
	r := protectedRoot(t)
	r.verifyFresh()
	for range 2 {
		r.offAndOn()
	}
	r.wantEvent("clean-reboot")
	promised := r.promisedSince(0)
	r.must(r.guest.Reboot(t.Context())) // without a power cycle
	r.promisedSince(promised)
	r.verifyFresh()
	r.wantEpoch(1)
	r.must(r.guest.Shutdown(t.Context()))
}

// offAndOn shuts the machine down and starts it again: the epoch goes on, and its last
// point from before is what the disks held when it was off.
func (r *guestRig) offAndOn() {
	r.t.Helper()
	promised := r.promisedSince(0)
	journal := r.journalExtents()
	at, disks := r.off()
	r.must(r.guest.Start(r.t.Context()))
	r.promisedSince(promised)
	r.untilPoint(r.now())
	r.wantEpoch(1)
	r.wantSame(at, disks, journal)
}

// TestRootOnXFSCleanReboot: the file system that holds the journal's place, and by whose
// superblock another system's visit is noticed, is another one.
func TestRootOnXFSCleanReboot(t *testing.T) {
	k := oneDisk()
	k.recipe.Root = guest.XFS
	r := protectedRootOf(t, k)
	r.verifyFresh()
	r.offAndOn()
	r.wantEvent("clean-reboot")
	r.wantFreeReboots()
	r.cutAndResync(1)
}

// TestRootOnLVMCleanReboot: the same of a root on a logical volume; and somebody else who
// mounts that, between two boots, is noticed.
func TestRootOnLVMCleanReboot(t *testing.T) {
	r := stackedRoot(t, guest.LVM)
	r.offAndOn()
	r.wantEvent("clean-reboot")
	r.wantFreeReboots()
	r.otherSystem()
	r.cutAndResync(2)
}

// TestRootOnLUKSCleanReboot: and of one on a logical volume on an encrypted partition.
func TestRootOnLUKSCleanReboot(t *testing.T) {
	r := stackedRoot(t, guest.LUKS)
	r.offAndOn()
	r.wantEvent("clean-reboot")
	r.wantFreeReboots()
	r.cutAndResync(1)
}

func stackedRoot(t *testing.T, under string) *guestRig {
	t.Helper()
	k := oneDisk()
	k.recipe.Under = under
	r := protectedRootOf(t, k)
	r.verifyFresh()
	return r
}

// wantFreeReboots fails if the agent's probe says that the next clean reboot costs a resync.
func (r *guestRig) wantFreeReboots() {
	r.t.Helper()
	said := r.run("/usr/bin/understudy-agent probe | sed -n '/^a clean reboot without a resync/,/^$/p'")
	if head, _, _ := strings.Cut(said, "\n"); !strings.HasSuffix(head, "yes") {
		r.t.Errorf("the probe says:\n%s", said)
	}
}

// otherSystem changes the root's superblock while the machine is off, as a rescue system
// does that mounts it.
func (r *guestRig) otherSystem() {
	r.t.Helper()
	before := r.untilPoint(r.now())
	sector, err := strconv.ParseInt(r.run(rootBegins), 10, 64)
	r.must(err)
	r.must(r.guest.Shutdown(r.t.Context()))
	out, err := exec.CommandContext(r.t.Context(), "tune2fs", "-C", "77", fmt.Sprintf("%s?offset=%d", r.guest.Disks["root"], sector*512)).CombinedOutput()
	if err != nil {
		r.t.Fatalf("tune2fs: %v: %s", err, out)
	}
	r.must(r.guest.Start(r.t.Context()))
	r.wantUnclean(before)
	if e := r.lastEvent("unclean-stop"); !strings.Contains(e.Message, "another system has used it") {
		r.t.Errorf("the event says %q", e.Message)
	}
}

// TestRootDiskCleanRebootDracut: another initramfs begins the capture.
func TestRootDiskCleanRebootDracut(t *testing.T) {
	k := oneDisk()
	k.recipe.Packages = guest.StackPackages // an image that is there already
	k.initramfs = byDracut
	r := protectedRootOf(t, k)
	r.offAndOn()
	r.wantEvent("clean-reboot")
	r.wantFreeReboots()
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
	r.cutAndResync(1)
}

// cutAndResync takes the power away in this epoch, and wants the resync that names it.
func (r *guestRig) cutAndResync(epoch uint64) {
	r.t.Helper()
	before := r.untilPoint(r.now())
	r.guest.PowerCut()
	r.must(r.guest.Start(r.t.Context()))
	r.wantUncleanAfter(epoch, before)
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
