package desired

import (
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Limits of a report. What exceeds them is refused whole.
const (
	MaxReportBytes = 1 << 20
	maxDisks       = 256
	maxEvents      = 256
	maxText        = 4096
	maxProbe       = 64 << 10
)

// Report is how a machine is, in its agent's words.
type Report struct {
	Version    int         `json:"version"`
	Time       time.Time   `json:"time" doc:"The agent's clock."`
	Instance   string      `json:"instance" doc:"Drawn at each start of the agent."`
	Started    time.Time   `json:"started" doc:"When this agent started."`
	Host       Host        `json:"host"`
	Generation uint64      `json:"generation" doc:"The desired state that the agent has taken in."`
	Disks      []Disk      `json:"disks" doc:"Every whole disk that could be protected."`
	Protection *Protection `json:"protection,omitempty" doc:"Absent while nothing is protected."`
	Probe      Probe       `json:"probe"`
	Events     []Event     `json:"events,omitempty" doc:"What happened since the last report that was answered."`
}

// ReportReply answers a report.
type ReportReply struct {
	Generation uint64    `json:"generation" doc:"If above the report's, fetch the desired state."`
	Time       time.Time `json:"time" doc:"The control plane's clock."`
}

// Disk is a disk that the machine has.
type Disk struct {
	ID         block.DiskID `json:"id"`
	Name       string       `json:"name" doc:"The stable name, for example wwn-0x5000c500a1b2c3d4."`
	Path       string       `json:"path" doc:"Where it is now, for example /dev/sda. It moves."`
	Size       int64        `json:"size" doc:"Bytes."`
	SectorSize int          `json:"sector_size" doc:"Bytes."`
	Filesystem string       `json:"filesystem,omitempty" doc:"For humans: what lies on it and where it is mounted."`
	Driver     string       `json:"driver,omitempty" doc:"Of the disk's controller, by the system's name for it, for example virtio_blk."`
}

// Phase is how far the protection of a machine or of one disk has come.
type Phase string

const (
	PhaseEnabling Phase = "enabling" // capture is being set up
	PhaseBase     Phase = "base"     // capturing; the epoch's base is still being sent
	PhaseSteady   Phase = "steady"   // capturing; the epoch's base is complete
	PhaseMapOnly  Phase = "map-only" // not capturing data: the dirty map keeps track until a resync
	PhaseScan     Phase = "scan"     // writes are not captured: the next point comes with the next scan
	PhaseFailed   Phase = "failed"   // not protected: Problem says why and what to do
)

// Protection is the state of the machine's one log.
type Protection struct {
	Phase     Phase            `json:"phase"`
	Epoch     block.Epoch      `json:"epoch"`
	Since     time.Time        `json:"since" doc:"When the epoch began."`
	Reason    string           `json:"reason" doc:"Why the epoch began, for example initial or ring-overflow."`
	Resync    uint64           `json:"resync" doc:"The newest resync request that has begun."`
	Disks     []DiskState      `json:"disks"`
	Base      *Progress        `json:"base,omitempty" doc:"Present in phase base."`
	LastSeq   block.Seq        `json:"last_seq"`
	Spooled   block.Seq        `json:"spooled"`
	Committed block.Seq        `json:"committed"`
	Ring      Gauge            `json:"ring"`
	Memory    Gauge            `json:"journal_memory"`
	Spill     Gauge            `json:"journal_spill"`
	Oldest    time.Time        `json:"journal_oldest,omitzero" doc:"Close time of the oldest frame not spooled yet."`
	Dirty     int64            `json:"dirty_bytes" doc:"What a resync would have to read if data were lost now."`
	Captured  int64            `json:"captured_bytes" doc:"Since the agent started."`
	Churn     int64            `json:"churn_bytes_per_second" doc:"Captured, over the last seconds."`
	Verify    *VerifyState     `json:"verify,omitempty" doc:"Of proofs that replica and disks are equal."`
	Scan      *ScanState       `json:"scan,omitempty" doc:"Present where writes are not captured: points come with scans only."`
	Point     *PointState      `json:"point,omitempty" doc:"The last point that was asked for or due, beside those that come by themselves."`
	Problem   *problem.Problem `json:"problem,omitempty" doc:"What keeps it from being protected."`
}

// DiskState is the protection of one disk.
type DiskState struct {
	ID      block.DiskID     `json:"id"`
	Phase   Phase            `json:"phase"`
	Problem *problem.Problem `json:"problem,omitempty"`
}

// Progress is how far a base copy or a resync has come.
type Progress struct {
	Method     string  `json:"method" doc:"full, ranges or hash."`
	Done       int64   `json:"done_bytes" doc:"Read and dealt with."`
	Total      int64   `json:"total_bytes" doc:"To read in all, as known now."`
	Sent       int64   `json:"sent_bytes" doc:"That had to travel."`
	ETASeconds float64 `json:"eta_seconds,omitempty" doc:"Estimated; 0 while unknown."`
}

// Gauge is how full something is.
type Gauge struct {
	Used int64 `json:"used_bytes"`
	Size int64 `json:"size_bytes"`
}

// Probe is the answer of the agent's self-test: can this machine be captured?
type Probe struct {
	Answer string  `json:"answer" doc:"yes, no or unknown."`
	Method string  `json:"method,omitempty"`
	Checks []Check `json:"checks,omitempty"`
}

// Check is one question of the probe.
type Check struct {
	Name   string `json:"name"`
	Answer string `json:"answer" doc:"yes, no or unknown."`
	Detail string `json:"detail,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

// Severity orders events.
type Severity string

const (
	Info    Severity = "info"
	Warning Severity = "warning"
	Error   Severity = "error"
)

// Event is something that happened at a moment.
type Event struct {
	Time     time.Time    `json:"time"`
	Disk     block.DiskID `json:"disk,omitzero"`
	Type     string       `json:"type" doc:"For programs, for example ring-overflow."`
	Severity Severity     `json:"severity"`
	Message  string       `json:"message"`
	Remedy   string       `json:"remedy,omitempty"`
}
