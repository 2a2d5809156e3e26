package desired

import (
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Verify is what is wanted of proofs that the vault's replica and the disks are equal.
type Verify struct {
	Once  uint64 `json:"once,omitempty" doc:"A proof is wanted while this is above the report's protection.verify.last.once."`
	Every int64  `json:"every_seconds,omitempty" doc:"Begin another proof this long after the last began; 0: only when asked."`
	Rate  int64  `json:"bytes_per_second,omitempty" doc:"Read no faster; 0: as the disk and the policy's throttle bear it."`
}

// VerifyState is how a machine's proofs stand.
type VerifyState struct {
	Running  bool      `json:"running,omitempty"`
	Once     uint64    `json:"once,omitempty" doc:"The request that the running proof answers, or the last one did."`
	Progress *Progress `json:"progress,omitempty" doc:"Of the running proof; sent_bytes are those compared."`
	Waiting  string    `json:"waiting,omitempty" doc:"What the running proof waits for."`
	Last     *Proof    `json:"last,omitempty" doc:"The last one that ended."`
	Findings []Finding `json:"findings,omitempty" doc:"Differences found, the newest last. What the vault has on record need not be here."`
}

// The results of a proof.
const (
	ProofEqual     = "equal"       // everything compared is equal
	ProofDifferent = "differences" // found and repaired, or being repaired
	ProofFailed    = "not-proved"  // Problem says why
)

// Proof is a finished pass over all protected disks. Of Total bytes in use, Equal were
// compared and are equal; the rest is told apart below.
type Proof struct {
	Once    uint64         `json:"once,omitempty" doc:"The newest request that it answers."`
	Result  string         `json:"result" doc:"equal, differences or not-proved."`
	Problem string         `json:"problem,omitempty" doc:"Why there is no proof."`
	Began   time.Time      `json:"began"`
	Ended   time.Time      `json:"ended"`
	From    block.Position `json:"from" doc:"The first frame boundary at which something was compared."`
	To      block.Position `json:"to" doc:"The last."`
	Total   int64          `json:"total_bytes" doc:"In use on the disks."`
	Equal   int64          `json:"equal_bytes"`
	Differs int64          `json:"different_bytes"`
	Damaged int64          `json:"damaged_bytes" doc:"The vault could not give them: counted as different."`
	Written int64          `json:"written_bytes" doc:"Not compared: written during each try."`
	Absent  int64          `json:"absent_bytes" doc:"Not compared: used now, but free when copied, and never written since."`
	Free    int64          `json:"free_bytes" doc:"Not compared: free space of mounted file systems, beyond total_bytes."`
}

// Finding is a difference between the replica and the disks of a machine. The points
// behind From, up to and with the epoch of At, show other bytes than the disks had, or
// none; the next epoch repaired the ranges.
type Finding struct {
	Found   time.Time          `json:"found"`
	At      block.Position     `json:"at" doc:"The last position of the log when it was found; the finding's name."`
	From    block.Position     `json:"from" doc:"Where the ranges were last proved equal; zero: never."`
	Cause   string             `json:"cause" doc:"different: other bytes; damaged: an object of the vault cannot be used."`
	Extents []block.DiskExtent `json:"extents" doc:"What it is about; ranges close to each other are joined."`
	Bytes   int64              `json:"bytes" doc:"That differ, of the extents."`
}

// The causes of a finding.
const (
	FoundDifferent = "different"
	FoundDamaged   = "damaged"
)

// maxFindings and maxFindingExtents bound what a report carries.
const (
	maxFindings       = 64
	maxFindingExtents = 256
)

// Affects reports whether the point at p may show the wrong bytes.
func (f Finding) Affects(p block.Position) bool {
	return f.From.Before(p) && p.Epoch <= f.At.Epoch
}

func (v *VerifyState) check() error {
	if v == nil {
		return nil
	}
	if len(v.Findings) > maxFindings {
		return invalid("%d findings of proofs: at most %d", len(v.Findings), maxFindings)
	}
	texts := map[string]string{"waiting": v.Waiting}
	if v.Last != nil {
		texts["problem"], texts["result"] = v.Last.Problem, v.Last.Result
	}
	for _, f := range v.Findings {
		if len(f.Extents) > maxFindingExtents || f.At.Seq == 0 || f.Cause != FoundDifferent && f.Cause != FoundDamaged {
			return invalid("finding %q at %s with %d extents", f.Cause, f.At, len(f.Extents))
		}
		for _, e := range f.Extents {
			if e.Disk.IsZero() || e.Off < 0 || e.Len <= 0 || e.Off > 1<<62-e.Len {
				return invalid("a finding at %v of disk %s", e.Extent, e.Disk)
			}
		}
	}
	return checkTexts(texts, maxText)
}
