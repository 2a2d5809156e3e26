package vault

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

const manifestVersion = 1

// manifest says what thinning has made of the oldest part of a machine's history.
// The newest generation is the truth; storing the next one, which only one thinning
// can do, is what makes a thinning happen.
type manifest struct {
	Version    int             `json:"version"`
	Machine    block.MachineID `json:"machine"`
	Generation uint64          `json:"generation"`
	// Through is the end of the newest run. Log frames up to it and base frames of
	// epochs up to its epoch are in the runs; whatever objects hold them are garbage.
	Through block.Position `json:"through"`
	Epochs  []*Epoch       `json:"epochs"` // those that lie in the runs, wholly or in part
	Runs    []run          `json:"runs"`   // oldest first; the first is the base
}

// run is the merged outcome of everything behind the run before it, up to End.
type run struct {
	End     block.Position `json:"end"`
	Closed  int64          `json:"closed"` // of the last frame merged, Unix ns
	Point   PointKind      `json:"point,omitempty"`
	Name    string         `json:"name,omitempty"`
	Objects []runObject    `json:"objects,omitempty"` // by disk and offset, disjoint
}

// runObject is one object of a run and the stretch all its extents lie in.
type runObject struct {
	Key  string `json:"key"`
	Size int64  `json:"size"`
	// From the first byte of the first extent up to the last byte of the last.
	FromDisk block.DiskID `json:"fromDisk"`
	From     int64        `json:"from"`
	ToDisk   block.DiskID `json:"toDisk"`
	To       int64        `json:"to"` // exclusive
}

// Disk is a protected disk as of the beginning of an epoch.
type Disk struct {
	ID         block.DiskID `json:"id"`
	Name       string       `json:"name"` // stable name
	Path       string       `json:"path"` // where it was then, for people
	Size       int64        `json:"size"` // bytes
	SectorSize int          `json:"sectorSize"`
}

// Epoch is a stretch of unbroken capture of a machine.
type Epoch struct {
	Epoch  block.Epoch  `json:"epoch"`
	Begin  block.Seq    `json:"begin"` // its first frame
	Began  time.Time    `json:"began"`
	Reason frame.Reason `json:"reason"`
	Method frame.Method `json:"method"`
	Disks  []Disk       `json:"disks"`
	// Complete is the frame that says how many base frames there are; 0 before it.
	Complete   block.Seq `json:"complete,omitempty"`
	BaseFrames uint64    `json:"baseFrames"` // as that frame says
	// Committed is how many base frames the vault has, without a gap from 1.
	Committed uint64 `json:"committed"`

	base   []baseRef // committed base objects that are not in a run, ascending
	merged bool      // base frames lie in a run
}

// offers reports whether a frame boundary of this epoch is a recovery point.
func (e *Epoch) offers(seq block.Seq) bool {
	return e.Complete != 0 && seq >= e.Complete && e.Committed >= e.BaseFrames
}

// parseManifest decodes a manifest and proves what readers rely on.
func parseManifest(b []byte) (*manifest, error) {
	m := &manifest{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("vault: malformed manifest: %w", err)
	}
	switch {
	case m.Version > manifestVersion:
		return nil, fmt.Errorf("%w: manifest of version %d, this build reads %d: upgrade understudy", ErrNewer, m.Version, manifestVersion)
	case m.Version < manifestVersion:
		return nil, fmt.Errorf("%w: manifest of version %d, this build reads %d", ErrOlder, m.Version, manifestVersion)
	}
	return m, m.validate()
}

func (m *manifest) validate() error {
	var last block.Position
	for _, r := range m.Runs {
		if !last.Before(r.End) {
			return fmt.Errorf("vault: malformed manifest: run %v behind %v", r.End, last)
		}
		last = r.End
		for _, o := range r.Objects {
			if o.Key == "" || o.From < 0 || o.FromDisk.IsZero() || o.ToDisk.IsZero() {
				return fmt.Errorf("vault: malformed manifest: object %q of run %v", o.Key, r.End)
			}
		}
	}
	if last != m.Through {
		return fmt.Errorf("vault: malformed manifest: runs end at %v, not %v", last, m.Through)
	}
	var before block.Epoch
	for _, e := range m.Epochs {
		if e == nil || e.Epoch <= before {
			return fmt.Errorf("vault: malformed manifest: epochs out of order behind %d", before)
		}
		before = e.Epoch
		e.merged = true
	}
	if before != m.Through.Epoch {
		return fmt.Errorf("vault: malformed manifest: facts up to epoch %d, runs up to %d", before, m.Through.Epoch)
	}
	return nil
}
