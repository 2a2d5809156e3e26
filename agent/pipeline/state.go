package pipeline

import (
	"maps"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/resync"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// State is what the pipeline must know again after its process died: where its log
// stands in its life. Where it stands in its frames, the journal knows. It is saved
// before the mark it speaks of is stored: a Began or Complete beyond the last frame is
// an intent that did not happen.
type State struct {
	Machine block.MachineID `json:"machine"`
	Epoch   block.Epoch     `json:"epoch"`
	Reason  frame.Reason    `json:"reason"`
	Since   time.Time       `json:"since"` // when the epoch began
	// Stretch is the stretch of unbroken capture that the epoch consists of.
	Stretch capture.Armed `json:"stretch"`
	// Crossed is where the log stood when it went on over a reboot within the epoch, with
	// another ring: the stretch's position belongs there. Seal is of the stop before it.
	Crossed block.Seq `json:"crossed,omitempty"`
	Seal    *Seal     `json:"seal,omitempty"`
	// Began is the sequence number of the epoch's begin mark; Complete that of its
	// base-complete mark, 0 while the base is being sent.
	Began    block.Seq `json:"began"`
	Complete block.Seq `json:"complete,omitempty"`
	// Copies settle the epoch's doubt one after another; Cursor is how far the one
	// at Copy has come.
	Copies []Copy        `json:"copies,omitempty"`
	Copy   int           `json:"copy,omitempty"`
	Cursor resync.Cursor `json:"cursor,omitzero"`
	// Frames is how many base frames the copies that are done have made. All of them
	// were spooled.
	Frames uint64 `json:"frames,omitempty"`
	// Disks are the disks of the epoch.
	Disks []block.DiskID `json:"disks,omitempty"`
	// Known names the disks of which the vault holds anything; Settled those of which
	// it holds a base that was completed and committed.
	Known   []block.DiskID `json:"known,omitempty"`
	Settled []block.DiskID `json:"settled,omitempty"`
	// Unsure says that the log is older than this memory: the vault may hold any disk.
	Unsure bool `json:"unsure,omitempty"`
	// Proof is how the proofs that disks and replica are equal stand.
	Proof proofs `json:"proof,omitzero"`
	// Doubt is the doubt that no epoch has named yet, as far as the kernel's dirty maps do
	// not know it: an agent that dies before it opens that epoch leaves it to the next.
	Doubt *PendingDoubt `json:"doubt,omitempty"`
	// Point is the last point made by request or policy; Tried is when that began.
	Point desired.PointState `json:"point,omitzero"`
	Tried time.Time          `json:"tried,omitzero"`
	// Scanned is when the last scan made a point.
	Scanned time.Time `json:"scanned,omitzero"`
	// Resync is the newest of the operator's resync requests that has begun.
	Resync uint64 `json:"resync,omitempty"`
}

// PendingDoubt names disks that are in doubt as a whole, and why.
type PendingDoubt struct {
	Reason frame.Reason   `json:"reason"`
	Whole  []block.DiskID `json:"whole"`
}

// Copy is one pass over some disks with one method.
type Copy struct {
	Method frame.Method   `json:"method"`
	Disks  []block.DiskID `json:"disks"`
}

// plan orders the copies of an epoch over these disks. What was never settled is read
// whole: sent in full if the vault holds nothing of it, else compared by hash, so that
// an initial copy broken off again and again still comes to its end.
func (s *State) plan(disks []block.DiskID, whole map[block.DiskID]bool) []Copy {
	var ranges, hash, full []block.DiskID
	for _, d := range disks {
		switch {
		case !s.Unsure && !slices.Contains(s.Known, d):
			full = append(full, d)
		case whole[d] || s.doubts(d) || !slices.Contains(s.Settled, d):
			hash = append(hash, d)
		default:
			ranges = append(ranges, d)
		}
	}
	var copies []Copy
	for _, c := range []Copy{{frame.MethodRanges, ranges}, {frame.MethodHash, hash}, {frame.MethodFull, full}} {
		if len(c.Disks) > 0 {
			copies = append(copies, c)
		}
	}
	return copies
}

// copyOf is the method by which the epoch settles this disk.
func copyOf(copies []Copy, d block.DiskID) frame.Method {
	for _, c := range copies {
		if slices.Contains(c.Disks, d) {
			return c.Method
		}
	}
	return ""
}

// method is the one word for the epoch's copies: the heaviest of them.
func method(copies []Copy) frame.Method {
	if len(copies) == 0 {
		return frame.MethodRanges
	}
	return copies[len(copies)-1].Method
}

func addNew(ids []block.DiskID, more []block.DiskID) []block.DiskID {
	for _, id := range more {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// suspect adds disks to those in doubt as a whole.
func (s *State) suspect(reason frame.Reason, whole map[block.DiskID]bool) {
	if len(whole) == 0 {
		return
	}
	pending := PendingDoubt{Reason: reason}
	if s.Doubt != nil {
		pending.Whole = slices.Clone(s.Doubt.Whole) // copies of the state share it
	}
	pending.Whole = addNew(pending.Whole, slices.Collect(maps.Keys(whole)))
	sortIDs(pending.Whole)
	s.Doubt = &pending
}

// doubts reports whether this disk is in doubt as a whole and no epoch has named it yet.
func (s *State) doubts(d block.DiskID) bool {
	return s.Doubt != nil && slices.Contains(s.Doubt.Whole, d)
}

// interrupted are the disks that an epoch which never began would have read whole, and
// those of which nobody could say so yet.
func (s *State) interrupted() map[block.DiskID]bool {
	whole := map[block.DiskID]bool{}
	if s.Doubt != nil {
		for _, d := range s.Doubt.Whole {
			whole[d] = true
		}
	}
	for _, c := range s.Copies {
		for _, d := range c.Disks {
			if c.Method != frame.MethodRanges {
				whole[d] = true
			}
		}
	}
	return whole
}
