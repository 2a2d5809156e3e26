package main

import (
	"context"
	"log/slog"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/relay"
)

// followPolicies tells the relay of changed policies until the context ends.
func followPolicies(ctx context.Context, inv *inventory.Inventory, to *relay.Server, log *slog.Logger) {
	for {
		changed := inv.Changed() // before the look, so that no change is missed
		if err := tellPolicies(ctx, inv, to); err != nil && ctx.Err() == nil {
			log.Error("cannot tell the relay of policies", "err", err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func tellPolicies(ctx context.Context, inv *inventory.Inventory, to *relay.Server) error {
	machines, err := inv.Machines(ctx)
	if err != nil {
		return err
	}
	for _, m := range machines {
		p, err := relayPolicy(ctx, inv, m.ID)
		if err != nil {
			return err
		}
		to.SetPolicy(m.ID, p)
	}
	return nil
}
