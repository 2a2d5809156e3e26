package guest

import (
	"bufio"
	"errors"
	"os/exec"
	"testing"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// TestBuildHoldsNoDisk: a lab can take its disks down while an image is being built.
func TestBuildHoldsNoDisk(t *testing.T) {
	ctx := t.Context()
	l, err := lab.New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.NewDisk(ctx, "held", 64*mib)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Format(ctx, lab.Ext4), d.MountUp(ctx, false)); err != nil {
		t.Fatal(err)
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
	if err := errors.Join(d.Unmount(ctx), d.Detach(ctx), l.Close()); err != nil {
		t.Error(err)
	}
	_ = build.Process.Kill() // it has done its part
	_ = build.Wait()
}
