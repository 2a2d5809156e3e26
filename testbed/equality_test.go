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
	files := r.sameAtRest()
	// The comparison can fail.
	if err := lab.SameBytes(r.disks[0].Device, files[r.disks[1].Name]); err == nil {
		t.Error("two different disks are the same")
	}
	r.wantEpoch(1)
}

// TestRemainsOfFilesAreLeftOut: a first copy does not carry what is left of files that
// were removed before protection, and it carries all else: between the holes that they
// leave lie files that stay.
func TestRemainsOfFilesAreLeftOut(t *testing.T) {
	r := newRig(t, setup{quiet: true})
	const small = 3000
	for _, d := range r.disks {
		r.must(d.Sieve(small))
	}
	r.must(r.machine.SetRPO(t.Context(), 3*time.Second))
	r.must(r.machine.Protect(t.Context(), r.disks...))
	r.untilProtected()
	files := r.sameAtRest()
	for _, d := range r.disks {
		if err := lab.SameBytes(d.Device, files[d.Name]); err == nil {
			t.Errorf("disk %s: what is left of removed files was copied, or nothing was left of %d", d.Name, small/2)
		}
	}
	r.wantEpoch(1)
}

// sameAtRest takes the file systems down and wants each replica to equal its disk, but
// for what a first copy leaves out. The files are the replicas.
func (r *rig) sameAtRest() map[string]string {
	r.t.Helper()
	ctx := r.t.Context()
	for _, d := range r.disks {
		r.must(d.Unmount(ctx))
	}
	r.untilPoint(time.Now())
	files, err := r.recover("latest").Files(r.disks)
	r.must(err)
	for _, d := range r.disks {
		free, err := d.Free(ctx)
		r.must(err)
		if err := lab.SameBut(d.Device, files[d.Name], free); err != nil {
			r.t.Errorf("disk %s: %v", d.Name, err)
		}
	}
	return files
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
		s, err := r.machine.Serve(t.Context(), d, got.Point.ID)
		r.must(err)
		r.must(s.Copy(t.Context(), served))
		r.must(s.Stop())
		if err := lab.SameBytes(files[d.Name], served); err != nil {
			t.Errorf("disk %s: %v", d.Name, err)
		}
	}
}

// TestThinningKeepsWhatItKeeps: the points that survive thinning (here: because they
// are being served) are the same after it, and the others are gone.
func TestThinningKeepsWhatItKeeps(t *testing.T) {
	r := protected(t, setup{work: func(w *lab.Workload) { w.Churn = 2 << 20 }})
	r.live(8 * time.Second)
	r.must(r.work.Stop())
	end := r.untilPoint(time.Now())
	before := r.points(time.Time{}, end)
	kept := []lab.Point{before[len(before)/4], before[len(before)/2], before[len(before)*3/4]}
	was := map[string]map[string]string{}
	for _, p := range kept {
		files, err := r.recover(p.ID).Files(r.disks)
		r.must(err)
		was[p.ID] = files
		s, err := r.machine.Serve(t.Context(), r.disks[0], p.ID)
		r.must(err)
		defer s.Stop()
	}
	r.must(r.machine.KeepAll(t.Context(), time.Second))
	r.must(lab.Until(t.Context(), 60*time.Second, "thinning", func() (bool, error) {
		points, err := r.machine.Points(t.Context(), time.Time{}, end)
		return err == nil && len(points) < 10, err
	}))
	left := r.points(time.Time{}, end)
	t.Logf("%d points thinned to %d", len(before), len(left))
	r.must(r.site.Vault(t.Context(), "check"))
	for _, p := range kept {
		files, err := r.recover(p.ID).Files(r.disks)
		r.must(err)
		for _, d := range r.disks {
			if err := lab.SameBytes(was[p.ID][d.Name], files[d.Name]); err != nil {
				t.Errorf("point %s, disk %s: %v", p.ID, d.Name, err)
			}
		}
	}
	if _, err := r.machine.Recover(t.Context(), before[len(before)/3].ID, r.Path("gone")); lab.ExitCode(err) != 3 {
		t.Errorf("a point that was thinned away: %v, want exit code 3", err)
	}
}
