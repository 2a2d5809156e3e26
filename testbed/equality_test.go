//go:build testbed

package testbed

import (
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// TestReplicaEqualsSource: after a live workload the file systems are taken down, and
// each whole disk is compared with the replica, byte by byte: used and free blocks,
// journals, what was discarded, and a disk without any file system.
func TestReplicaEqualsSource(t *testing.T) {
	r := protected(t, setup{disks: []string{lab.Ext4, lab.XFS, ""}, work: func(w *lab.Workload) { w.Churn, w.Trim = 20<<20, 2*time.Second }})
	bare := r.disks[2]
	r.must(bare.Scribble(500)) // writes, zeroings and discards at random places
	r.live(6 * time.Second)
	r.must(bare.Scribble(500))
	r.must(r.work.Stop())
	for _, d := range r.disks {
		r.must(d.Unmount(t.Context()))
	}
	r.untilPoint(time.Now())
	got := r.recover("latest")
	files, err := got.Files(r.disks)
	r.must(err)
	for _, d := range r.disks {
		if err := lab.SameBytes(d.Device, files[d.Name]); err != nil {
			t.Errorf("disk %s: %v", d.Name, err)
		}
	}
	// The comparison can fail.
	if err := lab.SameBytes(r.disks[0].Device, files[r.disks[1].Name]); err == nil {
		t.Error("two different disks are the same")
	}
	r.wantEpoch(1)
}

// TestManyMoments: whatever moment is asked for, it is one cut through both disks.
func TestManyMoments(t *testing.T) {
	r := protected(t, setup{work: func(w *lab.Workload) { w.Pause = time.Millisecond }})
	from := r.untilPoint(time.Now())
	r.live(8 * time.Second)
	to := r.untilPoint(time.Now())
	for i := range 5 {
		at := from.Add(to.Sub(from) * time.Duration(i) / 5)
		got := r.verify(at.Format(time.RFC3339Nano))
		if got.Point.Time.After(at) || at.Sub(got.Point.Time) > 1500*time.Millisecond {
			t.Errorf("asked for %s, got a point of %s: want one at most a second or so before", at, got.Point.Time)
		}
	}
	r.wantEpoch(1)
}

// TestServedEqualsMaterialised: a second of the past over NBD is the same as in a file.
func TestServedEqualsMaterialised(t *testing.T) {
	r := protected(t, setup{})
	r.live(3 * time.Second)
	at := r.untilPoint(time.Now())
	r.live(3 * time.Second)
	r.untilPoint(time.Now())
	got := r.recover(at.Format(time.RFC3339Nano))
	files, err := got.Files(r.disks)
	r.must(err)
	for _, d := range r.disks {
		served := r.Path(d.Name + ".served")
		r.must(r.machine.CopyServed(t.Context(), d, got.Point.ID, served))
		if err := lab.SameBytes(files[d.Name], served); err != nil {
			t.Errorf("disk %s: %v", d.Name, err)
		}
	}
}

// TestThinningKeepsWhatItKeeps: a point that survives thinning is the same after it.
func TestThinningKeepsWhatItKeeps(t *testing.T) {
	r := protected(t, setup{work: func(w *lab.Workload) { w.Churn = 2 << 20 }})
	r.live(10 * time.Second)
	r.untilPoint(time.Now())
	r.must(r.work.Stop())
	end := r.untilPoint(time.Now())
	before := r.points(time.Time{}, end)
	first := r.recoverAll(before)
	r.must(r.machine.KeepAll(t.Context(), 5*time.Second))
	var after []lab.Point
	r.must(lab.Until(t.Context(), 60*time.Second, "thinning", func() (bool, error) {
		after = r.points(time.Time{}, end)
		return len(after) < len(before)/2, nil
	}))
	t.Logf("%d points thinned to %d", len(before), len(after))
	r.must(r.site.Vault(t.Context(), "check"))
	compared := 0
	for _, p := range after {
		old, ok := first[p.ID]
		if !ok {
			continue
		}
		was, err := old.Files(r.disks)
		r.must(err)
		is, err := r.recover(p.ID).Files(r.disks)
		r.must(err)
		for _, d := range r.disks {
			if err := lab.SameBytes(was[d.Name], is[d.Name]); err != nil {
				t.Errorf("point %s, disk %s: %v", p.ID, d.Name, err)
			}
			compared++
		}
	}
	if compared == 0 {
		t.Error("no point was there before and after: nothing was compared")
	}
}

// recoverAll materialises a handful of the points.
func (r *rig) recoverAll(points []lab.Point) map[string]lab.Recovered {
	r.t.Helper()
	got := map[string]lab.Recovered{}
	for i := 0; i < len(points); i += max(1, len(points)/12) {
		got[points[i].ID] = r.recover(points[i].ID)
	}
	return got
}
