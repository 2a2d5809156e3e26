//go:build testbed

package testbed

import (
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// TestScannedMachine: where the kernel does not give the data of writes, nothing is frozen
// before a policy allows it; then each scan makes a point under load, exact like any
// other, and the RPO that is shown is its age.
func TestScannedMachine(t *testing.T) {
	r := newRig(t, setup{agent: []string{"--capture", "scan"}, work: func(w *lab.Workload) {
		w.Pause, w.Trim = 20*time.Millisecond, 0 // xfs trims while it is frozen: a scan then fails, as it must
	}})
	ctx := t.Context()
	r.must(r.machine.SetRPO(ctx, 3*time.Second))
	r.must(r.machine.Protect(ctx, r.disks...))
	v := r.until(30*time.Second, "word of the missing policy", func(v lab.View) bool { return v.Status.Problem != nil })
	if !strings.Contains(v.Status.Problem.Remedy, "--scan-every") || !v.PointTime().IsZero() {
		t.Errorf("without a policy: %+v, %v", v.Status, v.Status.Problem)
	}
	_, err := r.site.CLI(ctx, "policy", "set", "default", "--scan-every", "1h", "--scan-freeze", "60s")
	r.must(err)
	first := r.scannedAfter(time.Time{})
	r.verify("latest")
	r.live(15 * time.Second)
	v = r.view()
	if v.Status.State != "Protected" || *v.Status.RPO < 14 || !v.PointTime().Equal(first) || !strings.Contains(v.Status.Message, "scan") {
		t.Errorf("15 s after a scan: %+v, newest point %s, of the scan %s", v.Status, v.PointTime(), first)
	}
	_, err = r.site.CLI(ctx, "resync", r.machine.ID())
	r.must(err)
	r.scannedAfter(first)
	r.must(r.work.Err())
	r.verify("latest")
	r.verify(first.Format(time.RFC3339Nano))
	r.wantEvent("not-captured")
}

// scannedAfter waits for the end of the points that a scan makes, later ones than this.
func (r *rig) scannedAfter(before time.Time) time.Time {
	r.t.Helper()
	var last time.Time
	r.until(2*time.Minute, "point of a scan", func(v lab.View) bool {
		same := v.PointTime().Equal(last) // the writes after the thaw have ended them
		last = v.PointTime()
		if failed, err := r.site.Events(r.t.Context(), "scan-failed"); err != nil || len(failed) > 0 {
			r.t.Fatalf("%+v, %v", failed, err)
		}
		return last.After(before) && same && v.Protection != nil && v.Protection.Phase == "scan"
	})
	return last
}
