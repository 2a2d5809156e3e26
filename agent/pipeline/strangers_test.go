package pipeline

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// TestDiskTrackedByAnAgentThatDied: the kernel tracks a disk, and the agent that asked
// for it died before the epoch with it began. It is no disk of the epoch that goes on.
func TestDiskTrackedByAnAgentThatDied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.p.Wish(context.Background(), desired.State{Disks: w.disks[:1]}, w.k.found())
		for range 10 {
			time.Sleep(time.Second)
			w.plant.commit()
		}
		w.kill()
		for _, d := range w.k.found() {
			if d.ID == w.disks[1] {
				if err := (source{w.k}).Track(t.Context(), d); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.start(capture.Resume{Intact: true})
		w.settled()
		w.kill()
	})
}
