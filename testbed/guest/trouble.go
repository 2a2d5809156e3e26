package guest

import (
	"context"
	"fmt"
	"time"
)

// Kill9 kills all processes of this program, which do not learn of it. An error if
// there are none.
func (g *Guest) Kill9(ctx context.Context, program string) error {
	// Not pkill: that is a package more. comm has the first 15 bytes of the name.
	_, err := g.Run(ctx, fmt.Sprintf(`killed=
for p in /proc/[0-9]*; do
	if [ "$(cat $p/comm 2>/dev/null)" = %s ]; then kill -9 ${p#/proc/}; killed=1; fi
done
[ "$killed" ] || { echo nothing to kill >&2; exit 1; }`, quote(program[:min(15, len(program))])))
	return err
}

// FillDisk leaves so many bytes free on the file system at this mount point. What fills
// it is in a file "filler" there.
func (g *Guest) FillDisk(ctx context.Context, mount string, free int64) error {
	_, err := g.Run(ctx, fmt.Sprintf(`cd %s; room=$(($(stat -f -c '%%a * %%S' .) - %d)); [ $room -le 0 ] || fallocate -l $room filler; sync`, quote(mount), free))
	return err
}

// JumpClock sets the machine's clock forward by d, or back if d is negative.
func (g *Guest) JumpClock(ctx context.Context, d time.Duration) error {
	_, err := g.Run(ctx, fmt.Sprintf(`date -s "@$(($(date +%%s) + %d))"`, int64(d.Seconds())))
	return err
}

// Netem makes the guest's network bad for what it sends: "delay 200ms loss 2%"; "" makes
// it good again. It needs a kernel with sch_netem: Recipe.Kernel linux-image-amd64.
func (g *Guest) Netem(ctx context.Context, how string) error {
	script := "tc qdisc del dev eth0 root 2>/dev/null || true"
	if how != "" {
		script = "tc qdisc replace dev eth0 root netem " + how
	}
	_, err := g.Run(ctx, script)
	return err
}
