package relay

import (
	"testing"

	"github.com/understudy-dr/understudy/controlplane/relay/spool"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// TestLaterEpochAtATakenPlaceDoesNotFit: a relay that was away, and could not ask the
// vault, may have welcomed an agent at a position that another relay has passed since.
// What it then took is of a later epoch, and yet its numbers are taken: it can never be
// committed and must not be tried for ever.
func TestLaterEpochAtATakenPlaceDoesNotFit(t *testing.T) {
	m := newMachine(block.MachineID{1})
	m.known = true
	begin := spool.NewEntry(frame.Header{Kind: frame.KindMark, Epoch: 2, First: 17, Last: 17}, &frame.Mark{Type: frame.MarkEpochBegin})
	m.log = []waiting{{Entry: begin}}
	st := State{Last: block.Position{Epoch: 1, Seq: 35}}
	if dropped := m.dropCommitted(st); len(dropped) > 0 {
		t.Fatalf("%d frames were taken for committed", len(dropped))
	}
	if m.fits(st) {
		t.Error("frame 17 of epoch 2 is said to fit behind 1.35")
	}
	if st.Last.Seq = 16; !m.fits(st) {
		t.Error("frame 17 of epoch 2 does not fit behind 1.16")
	}
}
