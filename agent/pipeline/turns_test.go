package pipeline

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// TestAnotherEpochAtTheSameNumber: two relays take turns, and the one that answers has a
// frame of an epoch which the agent had given up, under a number that it has used again.
func TestAnotherEpochAtTheSameNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.burst(20)
		w.start(capture.Resume{})
		w.settled()
		w.disconnect()
		h, _ := w.plant.last()
		other, err := frame.AppendTick(nil, h.Machine, h.Epoch, h.Last+1, h.Closed)
		if err != nil {
			t.Fatal(err)
		}
		w.p.Wish(context.Background(), desired.State{Disks: w.disks, Resync: w.resync()}, w.k.found())
		time.Sleep(time.Second)
		w.burst(5)
		w.plant.take(t, other)
		w.connect(context.Background())
		w.settled()
		w.kill()
	})
}
