package relay

import (
	"testing"
	"time"

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

// TestAnotherHistoryUnderTheSameNumbers: frames are not in the vault because their numbers
// are. An agent without memory numbers anew, and two relays may hold one attempt each.
func TestAnotherHistoryUnderTheSameNumbers(t *testing.T) {
	at := time.Unix(1000, 0)
	m := newMachine(block.MachineID{1})
	m.log = []waiting{
		{Entry: spool.NewEntry(frame.Header{Kind: frame.KindMark, Epoch: 1, First: 1, Last: 1, Closed: at}, &frame.Mark{Type: frame.MarkEpochBegin})},
		{Entry: spool.NewEntry(frame.Header{Kind: frame.KindLog, Epoch: 1, First: 2, Last: 5, Closed: at.Add(1)}, nil)},
	}
	for _, c := range []struct {
		last   block.Seq
		closed time.Time
		same   bool
	}{{1, at, true}, {1, at.Add(1), false}, {5, at.Add(1), true}, {3, at, false}, {9, at, true}} {
		st := State{Last: block.Position{Epoch: 1, Seq: c.last}, Closed: c.closed}
		if got := m.sameHistory(st); got != c.same {
			t.Errorf("a vault that ends at %d, closed %v: the same history: %v", c.last, c.closed, got)
		}
	}
}

// TestAVaultAheadOfTheSpoolDoesNotFit, also while frames are on their way to the spool's
// disk: another writer has been there, and what it stored is not what is on its way. The
// agent must not be told that it is committed.
func TestAVaultAheadOfTheSpoolDoesNotFit(t *testing.T) {
	at := func(seq block.Seq) spool.LogPosition {
		return spool.LogPosition{Position: block.Position{Epoch: 2, Seq: seq}}
	}
	m := newMachine(block.MachineID{1})
	m.known, m.spooled, m.accepted = true, at(50), at(90)
	m.baseSpooled, m.baseAccepted = spool.BasePosition{Epoch: 2, N: 3}, spool.BasePosition{Epoch: 2, N: 9}
	st := State{Last: at(50).Position, Base: map[block.Epoch]uint64{2: 3}}
	if !m.fits(st) {
		t.Error("a vault that has all that was spooled does not fit")
	}
	if st.Last.Seq = 80; m.fits(st) {
		t.Error("a vault that has more of the log than was spooled is said to fit")
	}
	if st.Last.Seq, st.Base[2] = 50, 6; m.fits(st) {
		t.Error("a vault that has more of the base than was spooled is said to fit")
	}
}
