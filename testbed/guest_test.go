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
