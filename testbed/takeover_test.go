//go:build testbed

package testbed

import (
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// heardNoMore is longer than a source may be silent that can be asked.
const heardNoMore = 20 * time.Second

// TestRunShutsTheSourceDown: a whole machine, in the middle of its work, fails over. It
// switches itself off, and its replica boots from a point that is, byte for byte, what the
// disks hold then: nobody was told of a write that is not in it. Without its agent's answer
// nothing boots.
func TestRunShutsTheSourceDown(t *testing.T) {
	k := oneDisk()
	k.recipe.Loader = true
	k.flags = []string{"--emulate"}
	r := protectedRootOf(t, k)
	ctx := t.Context()
	r.verifyFresh()
	journal := r.journalExtents()

	run := []string{"failover", "run", r.machine.ID(), "--boot", "--shutdown-source", "--memory", "512MiB"}
	r.run("systemctl stop understudy-agent")
	r.live(heardNoMore)
	if _, err := r.site.CLI(ctx, run...); lab.ExitCode(err) != 4 {
		t.Errorf("a source whose agent is silent was asked to shut down: %v", err)
	}
	r.run("systemctl start understudy-agent")
	r.verifyFresh()
	r.until(time.Minute, "report of the agent", func(v lab.View) bool {
		return v.Status.Contact == "live" && v.Protection != nil && v.Protection.Phase == desired.PhaseSteady
	})

	var f failover.Failover
	r.must(r.site.Ask(ctx, &f, run...))
	r.must(r.guest.Off(ctx))
	t.Logf("up by %s %.1f s after it was asked for, of which %.1f s in its firmware and its system", f.Proof.By, f.Ended.Sub(f.Created).Seconds(), f.Proof.Seconds)
	r.judge()
	last := r.verify("failover-" + f.ID).Point
	r.wantSameAt(last.ID, r.asTheyAre(), journal, lab.SameUsed) // free space is given back also while it is frozen
	r.until(heardNoMore, "state FailedOver", func(v lab.View) bool { return v.Status.State == "FailedOver" })
	if e := r.lastEvent("failover"); !strings.Contains(e.Message, "switched off behind its last point, "+last.ID) {
		t.Errorf("the event says %q", e.Message)
	}
	_, err := r.site.CLI(ctx, "failover", "cleanup", "--force", f.ID)
	r.must(err)
}
