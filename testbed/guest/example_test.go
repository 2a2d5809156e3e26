package guest_test

import (
	"context"
	"fmt"

	"github.com/understudy-dr/understudy/testbed/guest"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// A machine with a data disk, which can reach a port of the host and loses its power.
func Example() {
	example := func(ctx context.Context) error {
		l, err := lab.New(ctx)
		if err != nil {
			return err
		}
		defer l.Close()
		image, err := guest.Build(ctx, guest.Recipe{Packages: []string{"cron"}})
		if err != nil {
			return err
		}
		g, err := guest.Boot(ctx, l, guest.Options{
			Name:  "web1",
			Image: image,
			Disks: []guest.Disk{{Name: "data", Size: 256 << 20}},
			Reach: []string{"127.0.0.1:9443"}, // in the guest: guest.Host:9443
		})
		if err != nil {
			return err
		}
		if err := g.Put(ctx, "bin/understudy-agent", "/usr/local/bin/understudy-agent"); err != nil {
			return err
		}
		out, err := g.Run(ctx, "mkfs.ext4 -q /dev/vdb; uname -r")
		fmt.Println(out)
		g.PowerCut()
		return err // g.Start(ctx) powers it on again
	}
	_ = example
}
