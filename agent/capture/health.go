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
	// RecursionMisses counts how often the kernel skipped the programs, since they
	// were attached.
	RecursionMisses uint64       `json:"recursion_misses"`
	Disks           []DiskHealth `json:"disks"`
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
	// that reached the driver, since the programs were attached.
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

// causes in the order of the kernel side's enum, and how telling each is.
var causes = [...]struct {
	reason Reason
	text   string
	rank   int // lower is told first
}{
	{RingOverflow, "ring full: the data was not taken out in time", 9},
	{AuditDifference, "a page of the write could not be read", 5},
	{AuditDifference, "a write of too many segments", 6},
	{RecursionMiss, "interrupted too deeply inside the capture program", 7},
	{AuditDifference, "an operation whose data is not in the request (write same, zone append)", 4},
	{Resized, "a write beyond the size at which the disk was tracked", 2},
	{DeviceChanged, "another device answers under the disk's number", 1},
	{PassthroughWrite, "a passthrough command (SG_IO, NVMe) that may have written", 3},
	{AuditDifference, "the device failed a write: what it holds there is unknown", 4},
	{RecursionMiss, "the kernel skipped the capture program", 7},
	{AuditDifference, "the driver was given more bytes than were seen submitted", 8},
}

// Places in causes that this side of the kernel counts too.
const (
	causeResized   = 5
	causeChanged   = 6
	causeRecursion = 9
	causeAudit     = 10
)
