package pipeline

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// TestADiskLeftOutIsNotSettledByAnOldEpoch: what was written to a disk while it was not
// protected is in no dirty map, and the commit of an epoch from before changes nothing
// about that, however late it comes.
func TestADiskLeftOutIsNotSettledByAnOldEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		w.kill()
		ctx := context.Background()
		w.start(capture.Resume{Intact: true})
		w.disconnect() // no epoch can begin
		w.p.Wish(ctx, desired.State{Disks: w.disks[:1]}, w.k.found())
		time.Sleep(time.Second)
		for b := range blocks {
			w.k.write(w.disks[1], b)
		}
		w.p.Wish(ctx, desired.State{Disks: w.disks}, w.k.found())
		time.Sleep(time.Second)
		w.connect(ctx)
		w.settled()
		w.kill()
	})
}
