package pipeline

import (
	"slices"
	"time"

	"github.com/understudy-dr/understudy/agent/resync"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// proofs is what of proofs outlives the agent's process.
type proofs struct {
	// Pass is the one that runs, or was broken off; nil if none.
	Pass *pass `json:"pass,omitempty"`
	// Last is the last one that ended. Skipped is what it did not compare, in sets that
	// are coarser outwards, and Disks what it was of.
	Last    *desired.Proof                  `json:"last,omitempty"`
	Disks   []block.DiskID                  `json:"disks,omitempty"`
	Skipped map[block.DiskID][]block.Extent `json:"skipped,omitempty"`
	// Findings are the newest differences found.
	Findings []desired.Finding `json:"findings,omitempty"`
}

// pass is one pass over the disks: those before Disk are done, and Disk up to Off.
type pass struct {
	desired.Proof
	Disks   []block.DiskID                  `json:"disks"`
	Disk    int                             `json:"disk"` // index in Disks
	Off     int64                           `json:"off"`
	Skipped map[block.DiskID][]block.Extent `json:"skipped,omitempty"`
}

const (
	// keptFindings are kept until newer ones push them out; the control plane takes them
	// down with the first report that carries them.
	keptFindings = 16
	// findingExtents and skippedExtents bound what is named of a disk.
	findingExtents = 64
	skippedExtents = 256
)

// proofDue reports whether a proof should run now: one asked for, or the next of those
// wanted for ever. One that was broken off goes on as long as either is so.
func (p *Pipeline) proofDue(now time.Time) bool {
	wish, s := p.wished.Verify, &p.State.Proof
	every := time.Duration(wish.Every) * time.Second
	switch {
	case s.Last == nil:
		return wish.Once > 0 || every > 0
	case wish.Once > s.Last.Once:
		return true
	}
	return every > 0 && (s.Pass != nil || now.Sub(s.Last.Began).Abs() >= every)
}

// dropUnwanted ends a pass that nobody waits for any more.
func (p *Pipeline) dropUnwanted(now time.Time) {
	if p.State.Proof.Pass != nil && !p.proofDue(now) {
		p.stopProof()
		p.State.Proof.Pass = nil
	}
}

// beginPass is the pass to run: the one that was broken off, if it is of these disks.
func (p *Pipeline) beginPass(disks []block.DiskID, now time.Time) *pass {
	if k := p.State.Proof.Pass; k != nil && slices.Equal(k.Disks, disks) {
		return k
	}
	k := &pass{Proof: desired.Proof{Once: p.wished.Verify.Once, Began: now}, Disks: disks}
	p.State.Proof.Pass = k
	return k
}

// add counts a verdict on the present disk, which is done up to off.
func (k *pass) add(v resync.Verdict, off int64) {
	if k.From == (block.Position{}) {
		k.From = v.First
	}
	if k.To.Before(v.Last) {
		k.To = v.Last
	}
	k.Off = off
	k.Equal += v.Equal.Bytes()
	k.Differs += v.Differs.Bytes()
	k.Damaged += v.Damaged.Bytes()
	k.Written += v.Written.Bytes()
	k.Absent += v.Absent.Bytes()
	k.Total = k.Equal + k.Differs + k.Damaged + k.Written + k.Absent
	skipped := block.NewSet(k.Skipped[k.Disks[k.Disk]]...)
	skipped.Union(v.Written)
	skipped.Union(v.Absent)
	if k.Skipped == nil { // as after the agent's restart
		k.Skipped = map[block.DiskID][]block.Extent{}
	}
	k.Skipped[k.Disks[k.Disk]] = coarsen(skipped, skippedExtents).Extents()
}

// end is the outcome of a pass; err is why it could not come to its end.
func (s *proofs) end(k *pass, now time.Time, err error) {
	last := k.Proof
	last.Ended = now
	switch {
	case err != nil:
		last.Result, last.Problem = desired.ProofFailed, err.Error()
	case last.Differs+last.Damaged > 0:
		last.Result = desired.ProofDifferent
	case last.Equal == 0 && last.Total > 0:
		last.Result, last.Problem = desired.ProofFailed, "nothing could be compared: all of it was written during each try"
	default:
		last.Result = desired.ProofEqual
	}
	s.Pass, s.Last = nil, &last
	if err == nil {
		s.Disks, s.Skipped = k.Disks, k.Skipped
	}
}

// knownEqual is the newest position at which a stretch of a disk was known to be equal:
// that of the last whole proof, if it compared it, or of the epoch's base, if all of
// the disk was copied or compared for it.
func (s *State) knownEqual(disk block.DiskID, what *block.Set) (at block.Position) {
	if m := copyOf(s.Copies, disk); (m == frame.MethodFull || m == frame.MethodHash) && s.Complete > 0 {
		at = block.Position{Epoch: s.Epoch, Seq: s.Complete - 1}
	}
	last := s.Proof.Last
	if last == nil || last.Result == desired.ProofFailed || !slices.Contains(s.Proof.Disks, disk) || last.From.Before(at) {
		return at
	}
	for _, e := range s.Proof.Skipped[disk] {
		if what.Overlaps(e) {
			return at
		}
	}
	return last.From
}
