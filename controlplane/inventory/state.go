package inventory

import (
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// State is where a machine stands between unprotected and recovered elsewhere.
type State string

const (
	Unprotected        State = "Unprotected"        // nothing is wanted
	Enabling           State = "Enabling"           // wanted; capture has not begun
	InitialReplication State = "InitialReplication" // captured; nothing is recoverable yet
	Protected          State = "Protected"          // captured, and new recovery points arrive
	Resync             State = "Resync"             // captured; no new points until the base is complete
	FailoverInitiated  State = "FailoverInitiated"  // its replica is being brought up to take over
	FailedOver         State = "FailedOver"         // its replica runs; the point may still change
	Committed          State = "Committed"          // its replica runs, for good
)

// Contact is how fresh the facts are that a state is derived from.
type Contact string

const (
	Never        Contact = "never"        // the agent has not reported since it enrolled
	Live         Contact = "live"         // it reports in time, and what it should send arrives
	Stale        Contact = "stale"        // a report is overdue, or the log does not arrive
	Disconnected Contact = "disconnected" // neither reports nor log arrive
)

// Ages of the newest report beyond which it is overdue, and given up.
const (
	staleAfter = 3 * desired.ReportEvery
	goneAfter  = 12 * desired.ReportEvery
)

// Replication is what the relay and the vault know of a machine. The zero
// Replication knows nothing.
type Replication struct {
	Known          bool           `json:"-"` // a relay has seen the machine since it started
	Connected      bool           `json:"connected"`
	Transport      string         `json:"transport,omitempty" doc:"quic or tcp, valid while connected."`
	Spooled        block.Position `json:"spooled" doc:"What the relay has on stable storage."`
	SpooledClose   time.Time      `json:"spooled_close,omitzero" doc:"Up to when."`
	Committed      block.Position `json:"committed" doc:"What is in the vault."`
	CommittedClose time.Time      `json:"committed_close,omitzero" doc:"Up to when."`
	PointEpoch     block.Epoch    `json:"point_epoch" doc:"Epoch of the newest recoverable point; 0 if there is none."`
	PointTime      time.Time      `json:"point_time,omitzero" doc:"Time of the newest recoverable point."`
	NoPoint        string         `json:"no_point,omitempty" doc:"Why nothing is recoverable."`
	BytesPerSecond int64          `json:"bytes_per_second" doc:"What arrives, over the last seconds."`
	SpoolBytes     int64          `json:"spool_bytes" doc:"Spooled and not committed."`
}

// Facts is all that a machine's state is derived from.
type Facts struct {
	Now         time.Time
	Wanted      []Disk         // that shall be protected
	Reported    time.Time      // when the report came, by our clock; zero: never
	Report      desired.Report // the newest
	Replication Replication
	Takeover    State // what a failover has made of it; empty: nothing
}

// Status is a machine's state and how far it can be believed.
type Status struct {
	State    State             `json:"state"`
	Contact  Contact           `json:"contact"`
	Reason   string            `json:"reason,omitempty" doc:"Why the present epoch began; valid in InitialReplication and Resync."`
	Message  string            `json:"message" doc:"State and contact in a sentence."`
	Problem  *problem.Problem  `json:"problem,omitempty" doc:"What keeps the machine from being protected."`
	RPO      *float64          `json:"rpo_seconds" doc:"Age of the newest recoverable point; null if there is none."`
	Progress *desired.Progress `json:"progress,omitempty" doc:"Of the base copy; valid in InitialReplication and Resync."`
}

// Derive says how a machine is. It is a function of its argument alone.
func Derive(f Facts) Status {
	s := Status{State: state(f), Contact: contact(f)}
	if !f.Replication.PointTime.IsZero() {
		age := max(0, f.Now.Add(f.skew()).Sub(f.Replication.PointTime)).Seconds()
		s.RPO = &age
	}
	if p := f.Report.Protection; p != nil && (s.State == InitialReplication || s.State == Resync) {
		s.Reason, s.Progress = p.Reason, p.Base
	}
	if s.State != Unprotected && f.Takeover == "" { // of a source that may be gone
		s.Problem = obstacle(f)
	}
	s.Message = message(f, s)
	return s
}

// skew is how far the machine's clock, which its points bear, is ahead of ours: one ahead
// would make the newest point look fresh for ever. A report that was long on its way looks
// like a clock behind, and correcting that would make points look fresher than they are:
// only what no way takes is believed.
func (f Facts) skew() time.Duration {
	if f.Reported.IsZero() || f.Report.Time.IsZero() {
		return 0
	}
	d := f.Report.Time.Sub(f.Reported)
	if d < 0 && d > -desired.MaxSkew {
		return 0
	}
	return d
}

func state(f Facts) State {
	p := f.Report.Protection
	switch {
	case f.Takeover != "":
		return f.Takeover
	case len(f.Wanted) == 0:
		return Unprotected
	case p != nil && p.Phase == desired.PhaseEnabling && p.Epoch > 0 && p.Epoch == f.Replication.PointEpoch:
		return Protected // a restarted agent takes up an epoch that the kernel went on capturing
	case p == nil || p.Phase == desired.PhaseEnabling || p.Phase == desired.PhaseFailed || !covers(p.Disks, f.Wanted):
		return unlessRecoverable(f, Enabling)
	case p.Phase == desired.PhaseScan && f.Replication.PointEpoch > 0:
		return Protected // as well as it can be: the RPO says how well
	case p.Phase != desired.PhaseMapOnly && p.Phase != desired.PhaseScan && offered(f):
		return Protected
	default:
		return unlessRecoverable(f, InitialReplication)
	}
}

// unlessRecoverable tells the first way to protection from every later one: a machine
// that has points already is in Resync, whatever the cause.
func unlessRecoverable(f Facts, first State) State {
	if f.Replication.PointEpoch > 0 {
		return Resync
	}
	return first
}

// offered reports whether points of the agent's present epoch can be recovered. The
// vault knows it before the agent does. Where no relay tells, the agent's word counts.
func offered(f Facts) bool {
	if !f.Replication.Known {
		return f.Report.Protection.Phase == desired.PhaseSteady
	}
	return f.Replication.PointEpoch == f.Report.Protection.Epoch
}

// covers reports whether the agent has taken in every disk that is wanted.
func covers(have []desired.DiskState, wanted []Disk) bool {
	return !slices.ContainsFunc(wanted, func(w Disk) bool {
		return !slices.ContainsFunc(have, func(h desired.DiskState) bool { return h.ID == w.ID && h.Phase != desired.PhaseFailed })
	})
}

func contact(f Facts) Contact {
	age := f.Now.Sub(f.Reported)
	late := age > staleAfter || age < -staleAfter // overdue, or our clock was set back
	silent := len(f.Wanted) > 0 && f.Replication.Known && !f.Replication.Connected
	switch {
	case f.Reported.IsZero():
		return Never
	case age > goneAfter && !f.Replication.Connected:
		return Disconnected
	case late || silent:
		return Stale
	default:
		return Live
	}
}

// obstacle is the first thing that has to be put right before all is protected.
func obstacle(f Facts) *problem.Problem {
	for _, d := range f.Wanted {
		if !d.Present && !f.Reported.IsZero() {
			return problem.New(problem.DiskGone, "attach it again, or end its protection: understudy unprotect",
				"disk %s (last at %s) of machine %s is gone; its history up to then stays recoverable", d.Name, d.Path, f.Report.Host.Hostname)
		}
	}
	p := f.Report.Protection
	if p == nil {
		return nil
	}
	for _, d := range p.Disks {
		if d.Problem != nil {
			return d.Problem
		}
	}
	return p.Problem
}

func message(f Facts, s Status) string {
	text := map[State]string{
		Unprotected:        "no disk is protected",
		Enabling:           "capture is being set up",
		InitialReplication: "the first copy is under way; nothing is recoverable yet",
		Protected:          "every written block is captured and recoverable",
		Resync:             "a resync is under way (" + s.Reason + "); earlier points are recoverable, new ones follow when it is complete",
		FailoverInitiated:  "its replica is being brought up to take over",
		FailedOver:         "its replica runs; the point can be changed until the failover is committed",
		Committed:          "its replica runs, and the failover is final",
	}[s.State]
	if s.State == Resync && s.Reason == "" {
		text = "capture is being set up again; earlier points are recoverable"
	}
	if f.Takeover != "" {
		return text // whatever its source does
	}
	if p := f.Report.Protection; p != nil && p.Phase == desired.PhaseMapOnly && s.State != Unprotected {
		text = "data is not captured at the moment, changed blocks are tracked; a resync will follow"
	}
	if p := f.Report.Protection; p != nil && p.Scan != nil && s.State != Unprotected {
		text = scanned(s.State, p.Scan)
	}
	switch s.Contact {
	case Never:
		text = "the agent has not reported yet"
	case Stale, Disconnected:
		text = fmt.Sprintf("%s, as of %s ago", text, f.Now.Sub(f.Reported).Round(time.Second))
		if f.Replication.Known && !f.Replication.Connected && len(f.Wanted) > 0 {
			text += "; its log is not connected"
		}
	}
	return text
}

// scanned is the message of a machine whose writes are not captured.
func scanned(s State, scan *desired.ScanState) string {
	text := "its writes are not captured: a point comes with each scan"
	switch {
	case s == Resync || s == InitialReplication:
		text += "; one is under way"
	case !scan.Next.IsZero():
		text += "; the next is due at " + scan.Next.UTC().Format(time.RFC3339)
	}
	return text
}
