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

// TestBaseLostWithTheLogWhole: a relay that lost its spool may have lost base frames
// only, when all of the log was in the vault already, or still is in the journal. The
// base is complete for the agent and never will be for the vault.
func TestBaseLostWithTheLogWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.burst(20)
		w.start(capture.Resume{})
		for range 20 {
			time.Sleep(100 * time.Millisecond)
			if s := w.p.Status(); s != nil && s.Phase == desired.PhaseSteady {
				break
			}
		}
		w.disconnect()
		clear(w.plant.base) // and not the log
		w.connect(context.Background())
		time.Sleep(time.Second)
		if s := w.p.Status(); s.Epoch != 2 || s.Reason != string(frame.ReasonRelayLostSpool) {
			t.Errorf("epoch %d (%s) goes on without its base", s.Epoch, s.Reason)
		}
		w.plant.log = nil // of an epoch whose base never came; the vault would hold it back
		w.disconnect()
		w.kill()
	})
}
