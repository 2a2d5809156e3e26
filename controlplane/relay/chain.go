package relay

import (
	"github.com/understudy-dr/understudy/controlplane/relay/spool"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// What a machine may append is decided here alone: the next frame of its own chain
// and nothing else. There is no frame that changes one that is there.

const (
	remedyUpgrade = "the agent and the relay disagree about the log: upgrade the agent; it begins a new epoch by itself"
	remedyEnrol   = "one machine sends with another's identity: enrol it under its own"
)

// judgeOwner refuses frames that are not the connected machine's, or not this
// channel's.
func judgeOwner(e *spool.Entry, owner block.MachineID, ch wire.Channel) *wire.Error {
	if e.Header.Machine != owner {
		return wire.Refuse(wire.CodeWrongMachine, remedyEnrol, "a frame of machine %s came from machine %s", e.Header.Machine, owner)
	}
	if e.Base() != (ch == wire.Base) {
		return wire.Refuse(wire.CodeWrongChannel, remedyUpgrade, "a %s frame came on the %s channel", e.Header.Kind, ch)
	}
	return nil
}

// judgeLog compares a log frame with the last one accepted. replay says that the
// position it claims is taken: the frame is dropped unread.
func judgeLog(last spool.LogPosition, e *spool.Entry) (replay bool, refusal *wire.Error) {
	h := e.Header
	begins := e.Mark == frame.MarkEpochBegin
	fresh := last.Seq == 0
	switch {
	case !fresh && h.Last <= last.Seq:
		return true, nil
	case h.Epoch < last.Epoch:
		return false, wire.Refuse(wire.CodeEpochOrder, remedyUpgrade, "frame %d..%d is of epoch %d, the log is in epoch %d", h.First, h.Last, h.Epoch, last.Epoch)
	case (h.Epoch > last.Epoch) != begins:
		return false, wire.Refuse(wire.CodeEpochOrder, remedyUpgrade, "frame %d..%d is of epoch %d after epoch %d, and an epoch begins with its mark and only there", h.First, h.Last, h.Epoch, last.Epoch)
	case fresh:
		// A vault that knows nothing of the machine: it may be younger than the machine.
		return false, nil
	case h.First <= last.Seq:
		return false, wire.Refuse(wire.CodeChainOverlap, remedyUpgrade, "frame %d..%d begins inside the log, which reaches to %d", h.First, h.Last, last.Seq)
	case h.First != last.Seq+1:
		return false, wire.Refuse(wire.CodeChainGap, remedyUpgrade, "frame %d..%d leaves out %d..%d", h.First, h.Last, last.Seq+1, h.First-1)
	}
	return false, nil
}

// judgeBase does the same for a base frame. Bases are numbered from 1 in each epoch.
func judgeBase(last spool.BasePosition, e *spool.Entry) (replay bool, refusal *wire.Error) {
	epoch, n := e.Header.Epoch, uint64(e.Header.First)
	switch {
	case epoch == last.Epoch && n <= last.N:
		return true, nil
	case epoch < last.Epoch:
		return false, wire.Refuse(wire.CodeEpochOrder, remedyUpgrade, "base frame %d is of epoch %d, the base of epoch %d has begun", n, epoch, last.Epoch)
	case epoch == last.Epoch && n != last.N+1, epoch > last.Epoch && n != 1:
		return false, wire.Refuse(wire.CodeChainGap, remedyUpgrade, "base frame %d of epoch %d came behind %d of epoch %d", n, epoch, last.N, last.Epoch)
	}
	return false, nil
}
