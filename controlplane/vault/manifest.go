package vault

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
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
	// Through is the end of the newest run. What lies before it in the line is in the
	// runs; whatever other objects hold of it is garbage.
	Through cut `json:"through"`
	// Log is the last log frame in the runs, Closed its closing time (Unix ns).
	Log    block.Position `json:"log"`
	Closed int64          `json:"closed"`
	// Tail is the first frame of the log object that Log ends within; 0 if Log ends with an
	// object. Its name does not follow from Log, and a listing may be late.
	Tail   block.Seq `json:"tail,omitempty"`
	Fences []fence   `json:"fences,omitempty"`
	Epochs []*Epoch  `json:"epochs"` // those that lie in the runs, wholly or in part
	Runs   []run     `json:"runs"`   // oldest first
}

// cut is a place in a machine's line of history: for each epoch first its base
// frames, then its log. Up to the cut lie all earlier epochs, log frames of Epoch up
// to Seq, and base frames of Epoch up to Base; once Seq has come to the log of Epoch,
// that is all its base frames.
type cut struct {
	Epoch block.Epoch `json:"epoch"`
	Seq   block.Seq   `json:"seq"`
	Base  uint64      `json:"base"`
}

// at is the cut behind a log position.
func at(p block.Position) cut { return cut{p.Epoch, p.Seq, math.MaxUint64} }

func (c cut) compare(o cut) int {
	return cmp.Or(cmp.Compare(c.Epoch, o.Epoch), cmp.Compare(c.Seq, o.Seq), cmp.Compare(c.Base, o.Base))
}

// run is the merged outcome of everything behind the run before it, up to End.
type run struct {
	End     cut         `json:"end"`
	Closed  int64       `json:"closed"`          // of the last log frame before End, Unix ns
	Point   PointKind   `json:"point,omitempty"` // set if End is a recovery point
	Name    string      `json:"name,omitempty"`
	Objects []runObject `json:"objects,omitempty"` // by disk and offset, disjoint
}

// position is where the run ends in the log. Only a point's has a meaning.
func (r *run) position() block.Position { return block.Position{Epoch: r.End.Epoch, Seq: r.End.Seq} }

// size is what the run's objects occupy on the store.
func (r *run) size() (n int64) {
	for _, o := range r.Objects {
		n += o.Size
	}
	return n
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
	Begin  block.Seq    `json:"begin"`            // its first frame
	Writer uint64       `json:"writer,omitempty"` // lease of the writer that stored it
	Began  time.Time    `json:"began"`
	Reason frame.Reason `json:"reason"`
	Method frame.Method `json:"method"`
	Disks  []Disk       `json:"disks"`
	// Complete is the frame that says how many base frames there are; 0 before it.
	Complete   block.Seq `json:"complete,omitempty"`
	BaseFrames uint64    `json:"baseFrames"` // as that frame says
	// Committed is how many base frames the vault has, without a gap from 1.
	Committed uint64 `json:"committed"`

	base []baseRef // committed base objects that are not in a run, ascending
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
	var last cut
	for _, r := range m.Runs {
		if last.compare(r.End) >= 0 {
			return fmt.Errorf("vault: malformed manifest: run to %v behind %v", r.End, last)
		}
		last = r.End
		for _, o := range r.Objects {
			if o.Key == "" || o.From < 0 || o.FromDisk.IsZero() || o.ToDisk.IsZero() {
				return fmt.Errorf("vault: malformed manifest: object %q of the run to %v", o.Key, r.End)
			}
		}
	}
	if last != m.Through || m.Log.Seq != m.Through.Seq || m.Log.Epoch > m.Through.Epoch {
		return fmt.Errorf("vault: malformed manifest: runs end at %v, not %v with log %v", last, m.Through, m.Log)
	}
	if m.Tail > m.Log.Seq {
		return fmt.Errorf("vault: malformed manifest: the object behind log %v begins with %d", m.Log, m.Tail)
	}
	if m.Machine.IsZero() {
		return errors.New("vault: malformed manifest: no machine")
	}
	var before block.Epoch
	for _, e := range m.Epochs {
		if e == nil || e.Epoch <= before || slices.ContainsFunc(e.Disks, func(d Disk) bool { return d.ID.IsZero() }) {
			return fmt.Errorf("vault: malformed manifest: epochs out of order or without disks' ids behind %d", before)
		}
		before = e.Epoch
	}
	if before != m.Through.Epoch {
		return fmt.Errorf("vault: malformed manifest: facts up to epoch %d, runs up to %d", before, m.Through.Epoch)
	}
	return nil
}

// names reports whether an object is part of a run.
func (m *manifest) names(key string) bool {
	return slices.ContainsFunc(m.Runs, func(r run) bool {
		return slices.ContainsFunc(r.Objects, func(o runObject) bool { return o.Key == key })
	})
}

// holdsBase reports whether the runs hold this base frame, or its epoch is closed.
func (m *manifest) holdsBase(e block.Epoch, n uint64) bool {
	return e < m.Through.Epoch || e == m.Through.Epoch && (m.Log.Epoch == e || n <= m.Through.Base)
}
