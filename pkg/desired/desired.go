// Package desired is what an agent and the control plane say to each other besides
// the log itself: who the machine is, what is wanted of it, and what it sees.
//
// The flow, all of it HTTPS with JSON bodies, started by the agent:
//
//	POST /v1/agent/enrol    EnrolRequest -> Credentials    one-time token, no client certificate
//	POST /v1/agent/renew    RenewRequest -> Credentials    every two thirds of a certificate's life
//	GET  /v1/agent/desired  -> State                       ?after=GENERATION&wait=SECONDS waits for a change
//	POST /v1/agent/report   Report -> ReportReply          every State.ReportSeconds, and at once after a change
//
// Both directions are level-triggered: State says how things shall be and Report
// how they are, each complete in itself, so that a lost, repeated or late one does
// no harm. Unknown JSON members are ignored on both sides: a newer peer may add
// some. A change that an older peer would misread raises Version.
//
// Version log:
//
//	1  2026-11  the first
package desired

import (
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Version is the protocol that this build speaks.
const Version = 1

// ReportEvery is how often an agent reports when nothing changes.
const ReportEvery = 5 * time.Second

// State is how one machine shall be. The newest one counts.
type State struct {
	Version       int             `json:"version"`
	Machine       block.MachineID `json:"machine"`
	Generation    uint64          `json:"generation" doc:"Grows with every change to what is wanted."`
	Time          time.Time       `json:"time" doc:"The control plane's clock."`
	Relays        []string        `json:"relays" doc:"host:port, in the order to try them. An empty host is the control plane's own."`
	Policy        Policy          `json:"policy"`
	Disks         []block.DiskID  `json:"disks" doc:"The disks to protect; every other disk is not protected."`
	Resync        uint64          `json:"resync" doc:"A resync is wanted while this is above the report's protection.resync."`
	Verify        Verify          `json:"verify,omitzero"`
	Point         PointWish       `json:"point,omitzero"`
	ReportSeconds int             `json:"report_seconds"`
}

// CheckVersion says whether this build can speak with a peer of this version.
func CheckVersion(peer int) error {
	switch {
	case peer == Version:
		return nil
	case peer > Version:
		return problem.New(problem.VersionUnknown, "upgrade the control plane first, then the agents",
			"the agent speaks version %d of the control protocol, the control plane version %d", peer, Version)
	default:
		return problem.New(problem.VersionUnknown, "upgrade the agent",
			"the agent speaks version %d of the control protocol, the control plane needs %d", peer, Version)
	}
}
