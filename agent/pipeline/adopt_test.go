package pipeline

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// TestAdoptedPositionIsWrittenDownFirst: an agent that dies between writing its state
// and resetting its journal must find an epoch that has not begun, whichever of the two
// it finds done.
func TestAdoptedPositionIsWrittenDownFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		w.disconnect()
		err := w.p.call(t.Context(), func() error {
			last := w.p.w.at.Seq
			d := &doubt{reason: frame.ReasonRelayLostSpool}
			if err := w.p.adopt(wire.Welcome{Epoch: w.p.w.at.Epoch, Spooled: last - 2}, d); err != nil {
				return err
			}
			if w.p.State.Began <= last {
				t.Errorf("the next epoch is to begin at %d; found with the old journal, which ends at %d, it has begun", w.p.State.Began, last)
			}
			w.p.raise(*d)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		w.kill()
	})
}

// TestEpochAboveAnyBaseOfTheRelay: relay and machine both lost their memory. Of the last
// epoch the relay still has base frames, and no log; had the next one its number, those
// would be taken for its own (found by the simulation, seed 35292).
func TestEpochAboveAnyBaseOfTheRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		w.disconnect()
		err := w.p.call(t.Context(), func() error {
			at := w.p.w.at
			told := wire.Welcome{Epoch: at.Epoch, Spooled: at.Seq - 2, BaseEpoch: at.Epoch + 1, SpooledBase: 1}
			if err := w.p.welcome(told); err != nil {
				return err
			}
			next := w.p.next(&doubt{reason: frame.ReasonUncleanStop}, w.disks, capture.Armed{}, time.Now())
			if next.Epoch <= told.BaseEpoch {
				t.Errorf("epoch %d would begin, and the relay has base frames of epoch %d", next.Epoch, told.BaseEpoch)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		w.kill()
	})
}

// TestARelayOfYesterdayMakesNoDiskFresh: it says that there is nothing of a machine whose
// frames were in the vault, for it cannot ask the vault and another relay went on. What
// the vault holds must be compared with, or blocks that are zeros now would stay as they
// were (found by the simulation, seed 39134).
func TestARelayOfYesterdayMakesNoDiskFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		w.disconnect()
		err := w.p.call(t.Context(), func() error {
			was := wire.Welcome{Epoch: w.p.w.at.Epoch, Spooled: w.p.committed, Committed: w.p.committed}
			for _, told := range []wire.Welcome{{}, was} {
				if err := w.p.welcome(told); err != nil {
					return err
				}
				for _, id := range w.disks {
					if m := copyOf(w.p.State.plan(w.disks, nil), id); m != frame.MethodHash {
						t.Errorf("told of frame %d: disk %s is to be copied by %s", told.Spooled, id, m)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		w.kill()
	})
}
