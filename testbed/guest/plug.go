package guest

import (
	"context"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// Plug gives the running machine a disk, on the virtio-scsi bus whatever d.Bus says, and
// returns its device there: /dev/sda.
func (g *Guest) Plug(ctx context.Context, d Disk) (string, error) {
	if err := g.command(ctx, "blockdev-add", map[string]any{
		"driver": "raw", "node-name": "plug-" + d.Name,
		"file": map[string]any{"driver": "file", "filename": d.File},
	}); err != nil {
		return "", err
	}
	if err := g.command(ctx, "device_add", map[string]any{
		"driver": "scsi-hd", "bus": "scsi0.0", "id": "plug-" + d.Name, "drive": "plug-" + d.Name, "serial": d.Name,
	}); err != nil {
		return "", err
	}
	out, err := g.Run(ctx, fmt.Sprintf(`for i in $(seq 100); do
	udevadm settle
	for s in /sys/block/sd*/device/vpd_pg80; do
		if grep -qa -- %s $s 2>/dev/null; then d=${s#/sys/block/}; echo -n /dev/${d%%%%/*}; exit; fi
	done
	sleep 0.1
done
echo disk %[1]s did not come >&2; exit 1`, quote(d.Name)))
	return out, err
}

// Unplug takes a disk away that Plug gave, and that nothing in the machine uses.
func (g *Guest) Unplug(ctx context.Context, name, device string) error {
	if _, err := g.Run(ctx, "echo 1 >/sys/block/"+device[len("/dev/"):]+"/device/delete"); err != nil {
		return err
	}
	if err := g.command(ctx, "device_del", map[string]any{"id": "plug-" + name}); err != nil {
		return err
	}
	return lab.Until(ctx, time.Minute, "end of disk "+name, func() (bool, error) {
		err := g.command(ctx, "blockdev-del", map[string]any{"node-name": "plug-" + name})
		return err == nil, err
	})
}
