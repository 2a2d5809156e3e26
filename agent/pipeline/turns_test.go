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

// TestAnotherFrameWhereOneWasAcknowledged: the relay had acknowledged frames that it could
// not commit, because the vault has another agent's under their numbers, of an epoch of
// the same number: that of this machine before it lost its memory, which another relay
// brought. Their writes are in the vault only if all is compared (found by the simulation,
// seed 39106). An agent that was killed meanwhile knows the frame, too.
func TestAnotherFrameWhereOneWasAcknowledged(t *testing.T) {
	for name, killed := range map[string]bool{"goes on": false, "killed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1)
				w.burst(20)
				w.start(capture.Resume{})
				w.settled()
				w.disconnect()
				w.plant.replace(t, 8)
				if killed {
					w.kill()
					w.start(capture.Resume{Intact: true})
				} else {
					w.connect(context.Background())
				}
				time.Sleep(time.Second)
				if s := w.p.Status(); s.Epoch != 2 || s.Reason != string(frame.ReasonRelayLostSpool) {
					t.Errorf("epoch %d (%s) goes on behind frames that are not its own", s.Epoch, s.Reason)
				}
				w.settled()
				w.kill()
			})
		})
	}
}

// replace puts others in the place of the newest n frames, which are empty, closed a moment
// later.
func (p *plant) replace(t *testing.T, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.log) - n; i < len(p.log); i++ {
		h, err := frame.ParseHeader(p.log[i])
		if err != nil {
			t.Fatal(err)
		}
		if p.log[i], err = frame.AppendTick(nil, h.Machine, h.Epoch, h.Last, h.Closed.Add(time.Nanosecond)); err != nil {
			t.Fatal(err)
		}
	}
}
