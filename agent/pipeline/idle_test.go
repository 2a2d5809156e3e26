package pipeline

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// ailing is a source whose counters say that a write went by unseen.
type ailing struct {
	source
	ill *atomic.Bool
}

func (a ailing) Health() (capture.Health, error) {
	h, err := a.source.Health()
	if a.ill.Load() {
		h.Losses = append(h.Losses, capture.Loss{Reason: capture.RecursionMiss, Cause: "the kernel skipped the programs", Count: 1})
	}
	return h, err
}

func (a ailing) Arm(ctx context.Context) (capture.Armed, error) {
	a.ill.Store(false)
	return a.source.Arm(ctx)
}

// TestIdleMachineNoticesWhatItMissed: a tick says that nothing was written. Where the
// hook missed the only write there was, no record tells, and the tick would lie.
func TestIdleMachineNoticesWhatItMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ill atomic.Bool
		w := newWorld(t, 1)
		w.wrap = func(s capture.Source) capture.Source { return ailing{s.(source), &ill} }
		w.start(capture.Resume{})
		w.settled()
		epoch := w.p.Status().Epoch
		ill.Store(true)
		time.Sleep(3 * time.Second)
		if s := w.p.Status(); s.Epoch == epoch || s.Reason != string(frame.ReasonRecursionMiss) {
			t.Errorf("after a missed write the machine ticks on in epoch %d (%s)", s.Epoch, s.Reason)
		}
		w.settled()
		w.kill()
	})
}

// TestARestartedAgentSaysWhichEpochItTakesUp, from its first report on: without that the
// machine would be shown in a resync that nobody can explain.
func TestARestartedAgentSaysWhichEpochItTakesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		w.kill()
		j, rec, s := w.open()
		p := New(Config{Log: slog.New(slog.DiscardHandler), Source: w.source(), Journal: j, State: s, Recovered: rec})
		if got := p.Status(); got == nil || got.Phase != desired.PhaseEnabling || got.Epoch != 1 {
			t.Errorf("its first word is %+v", got)
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
}
