package relay

import (
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// EventType names an event. The same words stand in the API and the console.
type EventType string

// The events of a relay.
const (
	EventConnected        EventType = "agent-connected"
	EventDisconnected     EventType = "agent-disconnected"
	EventRefused          EventType = "agent-refused"     // a Hello or frame was refused; the message has the wire's code
	EventHandshakeRefused EventType = "handshake-refused" // no agent of this control plane, or its certificate is no good
	EventIdentityConflict EventType = "identity-conflict" // a second living agent with the same identity
	EventReplayIgnored    EventType = "replay-ignored"    // frames that were there already
	EventSpoolFull        EventType = "spool-full"        // its limit is reached
	EventSpoolFailing     EventType = "spool-failing"     // its disk does not take writes
	EventSpoolRecovered   EventType = "spool-recovered"   // writes work again
	EventSpoolDamaged     EventType = "spool-damaged"     // acknowledged frames cannot be read after a restart
	EventSpoolDiverged    EventType = "spool-diverged"    // the vault does not end where the spool begins
	EventVaultFull        EventType = "vault-full"
	EventVaultReadOnly    EventType = "vault-read-only"
	EventVaultUnreachable EventType = "vault-unreachable"
	EventVaultRefused     EventType = "vault-refused" // frames do not continue what it has, or it is damaged
	EventLeaseLost        EventType = "lease-lost"
	EventVaultRecovered   EventType = "vault-recovered"
	EventBaseMissing      EventType = "base-missing" // an epoch was declared complete and its base is not
)

// Event is something an operator may want to know. Machine is zero where it concerns
// the whole relay.
type Event struct {
	At      time.Time
	Machine block.MachineID
	Type    EventType
	Message string
	Remedy  string
}
