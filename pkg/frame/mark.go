package frame

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// MarkType names what a mark frame says.
type MarkType string

// The marks of a machine's log.
const (
	// MarkEpochBegin opens an epoch: why, and which stretches of which disks are in
	// doubt until base frames have covered them.
	MarkEpochBegin MarkType = "epoch-begin"
	// MarkBaseComplete says that base frames 1..BaseFrames of the epoch are all there
	// are. From here on its frame boundaries are recovery points.
	MarkBaseComplete MarkType = "base-complete"
	// MarkPoint names the boundary before it as a recovery point of a better kind
	// than crash-consistent, or gives it a name.
	MarkPoint MarkType = "point"
)

// Reason names why an epoch began. The same words stand in code, API and UI.
type Reason string

// The reasons. Every doubt has one of these names.
const (
	ReasonInitial           Reason = "initial"
	ReasonDiskAdded         Reason = "disk-added"
	ReasonDiskRemoved       Reason = "disk-removed"
	ReasonRingOverflow      Reason = "ring-overflow"
	ReasonJournalOverflow   Reason = "journal-overflow"
	ReasonJournalDamaged    Reason = "journal-damaged"
	ReasonRecursionMiss     Reason = "recursion-miss"
	ReasonAuditDifference   Reason = "audit-difference"
	ReasonPassthroughWrite  Reason = "passthrough-write"
	ReasonUncleanStop       Reason = "unclean-stop"
	ReasonDeviceChanged     Reason = "device-changed"
	ReasonResized           Reason = "resized"
	ReasonRelayLostSpool    Reason = "relay-lost-spool"
	ReasonIdentityConflict  Reason = "identity-conflict"
	ReasonOperator          Reason = "operator"
	ReasonScrubDifference   Reason = "scrub-difference"
	ReasonCaptureReplaced   Reason = "capture-replaced"
	ReasonCaptureUnreadable Reason = "capture-unreadable"
	ReasonNotCaptured       Reason = "not-captured" // where disks are scanned: something was written
)

// Method names how the stretches in doubt are settled.
type Method string

// The methods of an initial copy or a resync.
const (
	MethodFull   Method = "full"   // every used block is sent
	MethodRanges Method = "ranges" // the stretches named in Doubt are sent
	MethodHash   Method = "hash"   // range hashes are compared, only differing blocks are sent
)

// MarkDisk is one protected disk as of the beginning of an epoch.
type MarkDisk struct {
	ID         block.DiskID `json:"id"`
	Name       string       `json:"name"` // the stable name ID is derived from
	Path       string       `json:"path"` // where it was at that moment, for people
	Size       int64        `json:"size"` // bytes
	SectorSize int          `json:"sectorSize"`
	// Whole says that all of the disk is in doubt; otherwise Doubt names what is.
	Whole bool           `json:"whole,omitempty"`
	Doubt []block.Extent `json:"doubt,omitempty"`
}

// PointMark describes an application-consistent or multi-VM point, or one that was only
// given a name.
type PointMark struct {
	Name string `json:"name"`
	Kind string `json:"kind"` // "app", "group" or "crash"
	// Problem says why a crash-consistent point is no better one, as was wanted.
	Problem string `json:"problem,omitempty"`
}

// Mark is the body of a mark frame; Type says which fields hold.
type Mark struct {
	Type MarkType `json:"type"`
	// epoch-begin
	Reason Reason     `json:"reason,omitempty"`
	Detail string     `json:"detail,omitempty"` // what exactly was seen, for people
	Method Method     `json:"method,omitempty"`
	Disks  []MarkDisk `json:"disks,omitempty"`
	// base-complete
	BaseFrames uint64 `json:"baseFrames,omitempty"`
	BaseBytes  int64  `json:"baseBytes,omitempty"`
	// point
	Point *PointMark `json:"point,omitempty"`
}

// AppendMark appends the mark frame with this sequence number to dst.
func AppendMark(dst []byte, machine block.MachineID, epoch block.Epoch, seq block.Seq, at time.Time, m Mark) ([]byte, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return dst, fmt.Errorf("frame: encoding a %s mark: %w", m.Type, err)
	}
	h := Header{Kind: KindMark, Codec: CodecRaw, Machine: machine, Epoch: epoch, First: seq, Last: seq, Opened: at, Closed: at, Raw: len(body)}
	return appendFrame(dst, h, nil, nil, body)
}

// Mark is the body of a mark frame.
func (f *Frame) Mark() (Mark, error) {
	var m Mark
	if f.Kind != KindMark {
		return m, fmt.Errorf("%w: a %s frame is not a mark", ErrMalformed, f.Kind)
	}
	body, err := f.Payload(nil)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return m, fmt.Errorf("%w: mark: %w", ErrMalformed, err)
	}
	return m, m.check()
}

// check proves what readers of a mark rely on.
func (m *Mark) check() error {
	if len(m.Disks) > MaxDisks {
		return fmt.Errorf("%w: a mark of %d disks", ErrLimit, len(m.Disks))
	}
	seen := make(map[block.DiskID]bool, len(m.Disks))
	for _, d := range m.Disks {
		if d.ID.IsZero() || seen[d.ID] || d.Size < 0 || d.SectorSize < 0 {
			return fmt.Errorf("%w: a mark with disk %s (%q) of %d bytes in sectors of %d", ErrMalformed, d.ID, d.Name, d.Size, d.SectorSize)
		}
		seen[d.ID] = true
		for _, e := range d.Doubt {
			if e.Off < 0 || e.Len <= 0 || e.End() < e.Off {
				return fmt.Errorf("%w: a mark in doubt of %v of disk %s", ErrMalformed, e, d.ID)
			}
		}
	}
	if m.Type == MarkPoint && m.Point == nil {
		return fmt.Errorf("%w: a point mark without a point", ErrMalformed)
	}
	return nil
}
