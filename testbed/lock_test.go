//go:build testbed

package testbed

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// TestPointsAreLocked, by an operator and by who serves one, and are the retention's again
// when the locks are gone: that of a serve that was killed, too.
func TestPointsAreLocked(t *testing.T) {
	r := protected(t, setup{})
	ctx := t.Context()
	r.live(6 * time.Second)
	r.must(r.work.Stop())
	end := r.untilPoint(time.Now())
	points := r.points(time.Time{}, end)
	kept, served := points[len(points)/3].ID, points[len(points)*2/3].ID
	locks := func(point string) (p struct {
		ID       string   `json:"id"`
		LockedBy []string `json:"locked_by"`
	}) {
		t.Helper()
		r.must(r.site.Ask(ctx, &p, "point", "show", r.machine.ID(), point))
		return p
	}
	if _, err := r.site.CLI(ctx, "point", "lock", r.machine.ID(), kept, "--name", "before-upgrade"); err != nil {
		t.Fatal(err)
	}
	if got := locks("before-upgrade"); got.ID != kept || !slices.Equal(got.LockedBy, []string{"before-upgrade"}) {
		t.Errorf("the lock's name means %+v, want %s", got, kept)
	}
	s, err := r.machine.Serve(ctx, r.disks[0], served)
	r.must(err)
	pid := s.PID()
	s.Kill()
	r.must(r.machine.KeepAll(ctx, time.Second))
	r.must(lab.Until(ctx, time.Minute, "thinning", func() (bool, error) {
		left, err := r.machine.Points(ctx, time.Time{}, end)
		return err == nil && len(left) < 10, err
	}))
	if got := locks(served).LockedBy; len(got) != 1 || !strings.Contains(got[0], fmt.Sprintf("process %d ", pid)) {
		t.Errorf("the served point is locked by %q", got)
	}
	for _, point := range []string{kept, served} {
		if out, err := r.site.CLI(ctx, "point", "unlock", r.machine.ID(), point); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if got := locks(point).LockedBy; got != nil {
			t.Errorf("point %s is still locked by %q", point, got)
		}
	}
	if _, err := r.site.CLI(ctx, "point", "unlock", r.machine.ID(), kept); lab.ExitCode(err) != 4 {
		t.Errorf("no lock is left to take away: %v, want exit code 4", err)
	}
	r.must(lab.Until(ctx, time.Minute, "end of the points", func() (bool, error) {
		left, err := r.machine.Points(ctx, time.Time{}, end)
		return err == nil && !slices.ContainsFunc(left, func(p lab.Point) bool { return p.ID == kept || p.ID == served }), err
	}))
}
