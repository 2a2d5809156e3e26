//go:build testbed

package testbed

import (
	"testing"
	"time"
)

// TestGuestPowerCut: a machine loses its power under load, with the agent, the kernel's
// maps and the journal in memory. Its points from before stay good; after the start it
// compares, and new points hold all that was acknowledged in both lives.
func TestGuestPowerCut(t *testing.T) {
	r := protectedGuest(t, oneDisk())
	r.verifyFresh()
	before := r.untilPoint(r.now())
	promised := r.promisedSince(0)
	r.guest.PowerCut()
	r.judge() // nothing comes any more
	r.verify("latest")
	r.must(r.guest.Start(t.Context()))
	r.promisedSince(promised)
	p := r.untilEpochAfter(1)
	if p.Reason != "unclean-stop" {
		t.Errorf("epoch %d began for %q, want unclean-stop", p.Epoch, p.Reason)
	}
	r.wantEvent("unclean-stop")
	r.verifyFresh()
	r.verify(before.Format(time.RFC3339Nano))
	r.must(r.guest.Shutdown(t.Context()))
}

// TestGuestAgentKilledAndNetworkCut: kill -9 of the agent and a network that is dead for
// a while cost neither a write nor a resync, also where both befall a real machine.
func TestGuestAgentKilledAndNetworkCut(t *testing.T) {
	r := protectedGuest(t, oneDisk())
	for range 2 {
		promised := r.promisedSince(0)
		r.must(r.guest.Kill9(t.Context(), "understudy-agent"))
		r.promisedSince(promised)
	}
	r.verifyFresh()
	before := r.untilPoint(r.now())
	r.must(r.guest.CutNetwork(t.Context()))
	r.live(5 * time.Second)
	promised := r.promisedSince(0)
	r.live(5 * time.Second)
	r.promisedSince(promised) // the applications do not suffer
	if newest := r.view().PointTime(); newest.Sub(before) > 10*time.Second {
		t.Errorf("a point of %s came without a network: the cut at %s was none", newest, before)
	}
	r.must(r.guest.RestoreNetwork(t.Context()))
	r.verifyFresh()
	r.wantEpoch(1)
	r.must(r.guest.Shutdown(t.Context()))
}

// TestGuestBadDays: a slow and lossy network, a full root file system and a clock that
// jumps befall a protected machine. None of them costs a write or a resync, and the RPO
// that is shown is one.
func TestGuestBadDays(t *testing.T) {
	r := protectedGuest(t, oneDisk())
	ctx := t.Context()
	r.must(r.guest.Netem(ctx, "delay 150ms 50ms loss 2%"))
	r.verifyFresh()
	r.must(r.guest.Netem(ctx, ""))

	r.must(r.guest.FillDisk(ctx, "/", 0))
	promised := r.promisedSince(0)
	r.must(r.guest.Kill9(ctx, "understudy-agent")) // and started again, with no room for anything
	r.promisedSince(promised)
	r.verifyFresh()
	r.run("rm /filler")

	r.must(r.guest.JumpClock(ctx, 2*time.Hour))
	r.wantEvent("clock")
	r.verifyFresh()
	r.must(r.guest.CutNetwork(ctx))
	r.live(20 * time.Second)
	if rpo := r.view().Status.RPO; rpo == nil || *rpo < 15 || *rpo > 120 {
		t.Errorf("with its clock two hours ahead, 20 s after its last word, the machine's RPO is shown as %v", rpo)
	}
	r.must(r.guest.RestoreNetwork(ctx))
	r.verifyFresh()
	r.wantEpoch(1)
	r.must(r.guest.Shutdown(ctx))
}
