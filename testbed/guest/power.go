package guest

import (
	"context"
	"fmt"
	"time"
)

// PowerCut takes the power away. A write that the guest's kernel was told to be done is
// on the disk, flushed or not, as with a disk without a cache; one under way may be
// there, torn or not at all. What lay in the guest's memory is gone.
func (g *Guest) PowerCut() {
	g.hangUp()
	g.qemu.Kill() // kill -9: qemu completes nothing on its way out
}

// Shutdown has the machine shut down in order and returns when it is off.
func (g *Guest) Shutdown(ctx context.Context) error {
	// Not by the connection's end: that may come before or after the command's.
	if _, err := g.Run(ctx, "systemctl --no-block poweroff"); err != nil {
		return err
	}
	return g.Off(ctx)
}

// Off returns when the machine is off: somebody switches it off, or it does so itself.
func (g *Guest) Off(ctx context.Context) error {
	g.hangUp()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := g.qemu.Wait(ctx); err != nil {
		return fmt.Errorf("guest %s did not go off: %w\nits console ends with:\n%s", g.Name, err, g.consoleTail())
	}
	return nil
}

// Reboot has the machine reboot in order and returns when it lets one in again.
func (g *Guest) Reboot(ctx context.Context) error {
	return g.anew(ctx, "systemctl --no-block reboot")
}

// Panic has the kernel panic, without a sync, and returns when the machine has come up
// again by itself.
func (g *Guest) Panic(ctx context.Context) error {
	// In a moment, so that the command has been answered.
	return g.anew(ctx, "echo 1 >/proc/sys/kernel/sysrq; (sleep 0.5; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 </dev/null &")
}

// anew does what ends the machine's present life, and waits for the next.
func (g *Guest) anew(ctx context.Context, script string) error {
	before, err := g.bootID(ctx)
	if err != nil {
		return err
	}
	if _, err := g.Run(ctx, script); err != nil {
		return err
	}
	g.hangUp()
	return g.untilUp(ctx, before)
}
