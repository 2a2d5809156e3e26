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
	r := protectedGuest(t)
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
	r := protectedGuest(t)
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
