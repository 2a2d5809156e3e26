//go:build testbed

package testbed

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// TestFailoverLeavesReplicationAlone: copies are tried, written to and removed by the
// verb for it, while new points go on; what Understudy did not make is never touched.
func TestFailoverLeavesReplicationAlone(t *testing.T) {
	r := protected(t, setup{})
	r.untilPoint(time.Now())
	got := r.recover("latest")
	files, err := got.Files(r.disks)
	r.must(err)
	_, err = r.work.Verify(t.Context(), r.Lab, files, got.Point.Time) // replays journals: it writes
	r.must(err)

	occupied := r.Path("occupied")
	r.must(os.Mkdir(occupied, 0o755))
	theirs := filepath.Join(occupied, filepath.Base(files[r.disks[0].Name]))
	r.must(os.WriteFile(theirs, []byte("somebody's only copy"), 0o644))
	_, err = r.machine.Recover(t.Context(), "latest", occupied)
	if code := lab.ExitCode(err); code == 0 {
		t.Errorf("recovery over somebody's file: %v", err)
	}
	if b, err := os.ReadFile(theirs); err != nil || string(b) != "somebody's only copy" {
		t.Errorf("somebody's file is now %q (%v)", b, err)
	}

	r.must(r.machine.CleanUp(t.Context(), got))
	for _, file := range files {
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s is still there after the clean-up", file)
		}
	}
	r.verifyNow()
	r.wantEpoch(1)
}

// TestVHDEqualsRaw: QEMU reads from the fixed VHD what the raw file holds.
func TestVHDEqualsRaw(t *testing.T) {
	r := protected(t, setup{})
	r.live(2 * time.Second)
	r.untilPoint(time.Now())
	got := r.recover("latest")
	raw, err := got.Files(r.disks)
	r.must(err)
	made, err := r.machine.RecoverAs(t.Context(), got.Point.ID, r.Path("vhd"), "vhd")
	r.must(err)
	vhd, err := made.Files(r.disks)
	r.must(err)
	for _, d := range r.disks {
		out, err := exec.CommandContext(t.Context(), "qemu-img", "compare", "-f", "vpc", "-F", "raw", vhd[d.Name], raw[d.Name]).CombinedOutput()
		if err != nil {
			t.Errorf("disk %s: %v: %s", d.Name, err, out)
		}
	}
}

// TestOperatorAsksForAResync: it has its own epoch and changes no byte.
func TestOperatorAsksForAResync(t *testing.T) {
	r := protected(t, setup{})
	before := r.untilPoint(time.Now())
	_, err := r.site.CLI(t.Context(), "resync", r.machine.ID())
	r.must(err)
	if p := r.untilEpochAfter(1); p.Reason != "operator" {
		t.Errorf("epoch %d began for %q, want operator", p.Epoch, p.Reason)
	}
	r.verifyNow()
	r.verify(before.Format(time.RFC3339Nano))
}
