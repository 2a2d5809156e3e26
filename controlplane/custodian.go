package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/block"
)

// tendEvery is how often the custodian goes round.
const tendEvery = 30 * time.Second

// custodian looks after the vault: it thins each machine's points by its policy, and
// writes beside its history what an inventory rebuilt from the vault needs.
type custodian struct {
	vault     *vault.Vault
	inventory *inventory.Inventory
	log       *slog.Logger
	wrote     map[block.MachineID]about // what the vault has
}

func (c *custodian) run(ctx context.Context) {
	c.wrote = make(map[block.MachineID]about)
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// What fails is tried again at the next round, and the others do not wait for it.
		if err := c.round(ctx); err != nil && ctx.Err() == nil {
			c.log.Error("cannot tend the vault", "err", err)
		}
	}
}

func (c *custodian) round(ctx context.Context) error {
	machines, err := c.inventory.Machines(ctx)
	if err != nil {
		return err
	}
	policies, err := c.inventory.Policies(ctx)
	if err != nil {
		return err
	}
	retention := make(map[string]vault.Retention, len(policies))
	for _, p := range policies {
		retention[p.Name] = retentionOf(p.Retention)
	}
	var errs error
	for _, m := range machines {
		if ctx.Err() != nil {
			break
		}
		errs = errors.Join(errs, c.tend(ctx, m, retention[m.Policy]))
	}
	return errs
}

func retentionOf(r inventory.Retention) vault.Retention {
	return vault.Retention{
		All:    time.Duration(r.AllSeconds) * time.Second,
		Hourly: time.Duration(r.HourlySeconds) * time.Second,
		Daily:  time.Duration(r.DailySeconds) * time.Second,
	}
}

func (c *custodian) tend(ctx context.Context, m inventory.Machine, r vault.Retention) error {
	history, err := c.vault.Machine(ctx, m.ID)
	if errors.Is(err, vault.ErrNoMachine) {
		return nil
	}
	if err != nil {
		return err
	}
	if now := (about{m.Hostname, m.Policy}); c.wrote[m.ID] != now {
		text, err := json.Marshal(now)
		if err != nil {
			return err
		}
		if err := history.SaveAbout(ctx, text); err != nil {
			return err
		}
		c.wrote[m.ID] = now
	}
	_, err = history.Thin(ctx, r)
	return err
}
