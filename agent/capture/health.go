package capture

import "github.com/understudy-dr/understudy/pkg/block"

// Reason is the word under which a loss begins a new epoch.
type Reason string

// The reasons that capture can find.
const (
	RingOverflow     Reason = "ring-overflow"
	RecursionMiss    Reason = "recursion-miss"
	AuditDifference  Reason = "audit-difference"
	PassthroughWrite Reason = "passthrough-write"
	DeviceChanged    Reason = "device-changed"
	Resized          Reason = "resized"
	NotCaptured      Reason = "not-captured" // see package scan
)

// Loss counts writes whose data is not in the ring, by cause.
type Loss struct {
	Reason Reason `json:"reason"`
	// Cause says it in the operator's words.
	Cause string `json:"cause"`
	Count uint64 `json:"count"`
}

// Health is the state of capture at one moment.
type Health struct {
	// Armed: data is being captured and nothing was lost since Arm.
	Armed bool `json:"armed"`
	// Losses since Arm, the most telling first.
	Losses []Loss `json:"losses,omitempty"`
	// RingBytes is the ring's size, RingUsed what of it is not yet given back.
	RingBytes uint64 `json:"ring_bytes"`
	RingUsed  uint64 `json:"ring_used"`
	// Skipped counts how often the kernel skipped the programs and a loss was made of it,
	// Rescued how often it skipped one and another stood in, since they were attached.
	Skipped uint64       `json:"skipped"`
	Rescued uint64       `json:"rescued"`
	Disks   []DiskHealth `json:"disks"`
}

// Reason is the name of the loss, empty if there was none.
func (h Health) Reason() Reason {
	if len(h.Losses) == 0 {
		return ""
	}
	return h.Losses[0].Reason
}

// DiskHealth is the state of one tracked disk.
type DiskHealth struct {
	Disk block.DiskID `json:"disk"`
	// Gone: no device answers under the disk's number, or another one does.
	Gone bool `json:"gone,omitempty"`
	// Size is the disk's size now, in bytes; it differs from Disk.Size if Resized.
	Size    int64 `json:"size"`
	Resized bool  `json:"resized,omitempty"`
	// Suspect: everything on the disk is in doubt, until it was resynchronised and
	// the dirty map forgotten.
	Suspect bool `json:"suspect,omitempty"`
	// Submitted and Issued count bytes of WRITE that entered the block layer and
	// that reached the driver, since the programs were attached. Zero where they cannot be
	// compared.
	Submitted uint64 `json:"submitted"`
	Issued    uint64 `json:"issued"`
	// Audit says whether the two could be compared.
	Audit Audit `json:"audit"`
}

// Audit is the verdict over submitted and issued bytes.
type Audit string

// The verdicts. A difference is a loss and appears among Health.Losses too.
const (
	AuditEqual      Audit = "equal"
	AuditPending    Audit = "pending"    // no quiet moment yet to compare in
	AuditImpossible Audit = "impossible" // the device has no request queue, or the kernel is 7.0 or later
	AuditMissing    Audit = "difference" // more was issued than submitted
)
