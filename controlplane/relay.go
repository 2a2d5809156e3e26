package main

import (
	"context"
	"log/slog"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/relay"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// authorize lets a machine send if its certificate holds and it is known, and says by
// which policy.
func authorize(inv *inventory.Inventory) func(context.Context, block.MachineID, string) (relay.Policy, error) {
	return func(ctx context.Context, id block.MachineID, serial string) (relay.Policy, error) {
		if err := inv.Authorize(ctx, id, serial); err != nil {
			return relay.Policy{}, err
		}
		return relayPolicy(ctx, inv, id)
	}
}

// relayPolicy is the relay's part of a machine's policy. Throttle windows are not: they
// open and close by the machine's clock, and its agent keeps them.
func relayPolicy(ctx context.Context, inv *inventory.Inventory, id block.MachineID) (relay.Policy, error) {
	s, err := inv.Desired(ctx, id)
	return relay.Policy{RPOTarget: s.Policy.RPOTarget()}, err
}

// eventQueue is how many events of the relay may wait for the inventory: the relay
// must never wait for it.
const eventQueue = 1024

// relayEvents writes the relay's events into the inventory.
type relayEvents struct {
	inventory *inventory.Inventory
	log       *slog.Logger
	queue     chan relay.Event
}

func newRelayEvents(inv *inventory.Inventory, log *slog.Logger) *relayEvents {
	return &relayEvents{inventory: inv, log: log, queue: make(chan relay.Event, eventQueue)}
}

// take is for relay.Config.
func (e *relayEvents) take(v relay.Event) {
	select {
	case e.queue <- v:
	default:
		e.log.Error("an event of the relay is lost: the inventory does not keep up", "type", v.Type, "machine", v.Machine, "message", v.Message)
	}
}

// run writes events until the context ends, and then what is left.
func (e *relayEvents) run(ctx context.Context) {
	for {
		select {
		case v := <-e.queue:
			e.write(ctx, v)
		case <-ctx.Done():
			for len(e.queue) > 0 {
				e.write(context.WithoutCancel(ctx), <-e.queue)
			}
			return
		}
	}
}

func (e *relayEvents) write(ctx context.Context, v relay.Event) {
	err := e.inventory.AddEvent(ctx, v.Machine, desired.Event{Time: v.At, Type: string(v.Type), Severity: relaySeverity(v.Type), Message: v.Message, Remedy: v.Remedy})
	if err != nil {
		e.log.Error("cannot write down an event", "err", err, "type", v.Type, "message", v.Message)
	}
}

func relaySeverity(t relay.EventType) desired.Severity {
	switch t {
	case relay.EventConnected, relay.EventDisconnected, relay.EventReplayIgnored, relay.EventSpoolRecovered, relay.EventVaultRecovered:
		return desired.Info
	case relay.EventSpoolDamaged, relay.EventSpoolFailing, relay.EventSpoolDiverged, relay.EventIdentityConflict, relay.EventVaultFull, relay.EventVaultReadOnly, relay.EventBaseMissing:
		return desired.Error
	default:
		return desired.Warning
	}
}
