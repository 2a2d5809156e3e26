package guest

import (
	"bufio"
	"errors"
	"fmt"
	"os/exec"
	"testing"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// TestBuildHoldsNoDisk: a lab can take its disks down while an image is being built, all
// of them: the table of mounts changes while it is gone through.
func TestBuildHoldsNoDisk(t *testing.T) {
	ctx := t.Context()
	l, err := lab.New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var disks []*lab.Disk
	for i := range 4 {
		d, err := l.NewDisk(ctx, fmt.Sprintf("held%d", i), 64*mib)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.Format(ctx, lab.Ext4), d.MountUp(ctx, false)); err != nil {
			t.Fatal(err)
		}
		disks = append(disks, d)
	}
	build := exec.CommandContext(ctx, "unshare", "--mount", "bash", "-c", withoutLabs, "sh", "-c", "echo begun; exec sleep 60")
	out, err := build.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := build.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		if err := errors.Join(d.Unmount(ctx), d.Detach(ctx)); err != nil {
			t.Error(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	_ = build.Process.Kill() // it has done its part
	_ = build.Wait()
}
