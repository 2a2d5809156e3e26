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
	"github.com/understudy-dr/understudy/pkg/desired"
)

// How often the custodian looks for what is new of machines, and thins their points.
const (
	lookEvery = 5 * time.Second
	thinEvery = 30 * time.Second
)

// custodian looks after the vault: it thins each machine's points by its policy, and
// writes beside its history what an inventory rebuilt from the vault needs.
type custodian struct {
	vault     *vault.Vault
	inventory *inventory.Inventory
	log       *slog.Logger
	wrote     map[block.MachineID]string // what the vault has
	thinned   time.Time
}

func (c *custodian) run(ctx context.Context) {
	c.wrote = make(map[block.MachineID]string)
	tick := time.NewTicker(lookEvery)
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
	followed := make(map[string]inventory.Policy, len(policies))
	for _, p := range policies {
		followed[p.Name] = p
	}
	thin := time.Since(c.thinned) >= thinEvery
	if thin {
		c.thinned = time.Now()
	}
	var errs error
	for _, m := range machines {
		if ctx.Err() != nil {
			break
		}
		history, err := c.vault.Machine(ctx, m.ID)
		if errors.Is(err, vault.ErrNoMachine) {
			continue
		}
		if err == nil {
			err = c.describe(ctx, history, m, followed[m.Policy])
		}
		if err == nil && thin {
			_, err = history.Thin(ctx, retentionOf(followed[m.Policy].Retention))
		}
		errs = errors.Join(errs, err)
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

// proofOf is the machine's last proof that its disks and their replica are equal.
func proofOf(m inventory.Machine) *desired.Proof {
	if p := m.Report.Protection; p != nil && p.Verify != nil {
		return p.Verify.Last
	}
	return nil
}

// describe writes beside the machine's history what changed of the machine.
func (c *custodian) describe(ctx context.Context, history *vault.Machine, m inventory.Machine, p inventory.Policy) error {
	wanted, err := c.inventory.Desired(ctx, m.ID)
	if err != nil {
		return err
	}
	text, err := json.Marshal(about{Hostname: m.Hostname, Policy: p, Protected: wanted.Disks, Proof: proofOf(m)})
	if err != nil || c.wrote[m.ID] == string(text) {
		return err
	}
	if err := history.SaveAbout(ctx, text); err != nil {
		return err
	}
	c.wrote[m.ID] = string(text)
	return nil
}
