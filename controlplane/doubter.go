package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/block"
)

// doubtEvery is how soon the vault is told of a finding that it could not be told of at
// once.
const doubtEvery = 5 * time.Second

// doubter writes down in the vault what the machines' proofs found, as soon as their
// agents tell: until then the points in doubt are recovered without a question. It waits
// for nobody, least of all for a thinning.
type doubter struct {
	vault     *vault.Vault
	inventory *inventory.Inventory
	log       *slog.Logger
	told      chan struct{}
	doubted   map[block.MachineID]map[string]bool // findings that the vault has
}

func newDoubter(v *vault.Vault, inv *inventory.Inventory, log *slog.Logger) *doubter {
	return &doubter{vault: v, inventory: inv, log: log, told: make(chan struct{}, 1), doubted: make(map[block.MachineID]map[string]bool)}
}

// tell says that a report with findings has been recorded.
func (d *doubter) tell() {
	select {
	case d.told <- struct{}{}:
	default: // it will look at all of them anyway
	}
}

func (d *doubter) run(ctx context.Context) {
	tick := time.NewTicker(doubtEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.told:
		case <-tick.C:
		}
		if err := d.round(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("cannot put points in doubt: until the vault takes it they are recovered without a question", "err", err)
		}
	}
}

func (d *doubter) round(ctx context.Context) error {
	machines, err := d.inventory.Machines(ctx)
	if err != nil {
		return err
	}
	var errs error
	for _, m := range machines {
		errs = errors.Join(errs, d.machine(ctx, m))
	}
	return errs
}

// machine writes down what the machine's proofs found, as long as its agent tells of it.
// What is on record is not written again.
func (d *doubter) machine(ctx context.Context, m inventory.Machine) error {
	if m.Report.Protection == nil || m.Report.Protection.Verify == nil {
		return nil
	}
	for _, f := range m.Report.Protection.Verify.Findings {
		about := vault.Doubt(f)
		if d.doubted[m.ID][about.ID()] {
			continue
		}
		history, err := d.vault.Machine(ctx, m.ID)
		if errors.Is(err, vault.ErrNoMachine) {
			return nil
		}
		if err == nil {
			err = history.AddDoubt(ctx, about)
		}
		if err != nil && !errors.Is(err, vault.ErrTooManyDoubts) {
			return err
		}
		if d.doubted[m.ID] == nil {
			d.doubted[m.ID] = make(map[string]bool)
		}
		d.doubted[m.ID][about.ID()] = true
		d.log.Warn("points are in doubt", "machine", m.ID, "found", about.At, "from", about.From, "cause", about.Cause, "bytes", about.Bytes, "err", err)
	}
	return nil
}
