package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/obs"
	"github.com/understudy-dr/understudy/pkg/problem"
)

func newVault(o *operator) *cobra.Command {
	return group("vault", "The vault itself", "", newVaultCheck(o), newVaultRebuild(o))
}

func newVaultCheck(o *operator) *cobra.Command {
	var place vaultPlace
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Read everything in the vault and prove it",
		Long: `Reads everything in the vault and proves every checksum, every encryption, and that each
machine's chain goes on without a gap. It changes nothing, and may run beside the
control plane or without it. If something is damaged, it says which recovery points
need it, and exits with 8.`,
		Args: asUsage(cobra.NoArgs),
	}
	cmd.RunE = func(*cobra.Command, []string) error {
		return runVaultCheck(cmd.Context(), place.in(o.data), o.printer(cmd.OutOrStdout()), cmd.ErrOrStderr())
	}
	place.flags(cmd.Flags())
	return cmd
}

func runVaultCheck(ctx context.Context, place vaultPlace, out *printer, progress io.Writer) error {
	v, err := place.open(ctx, obs.NewLog(os.Stderr, slog.LevelWarn, false))
	if err != nil {
		return err
	}
	b := newBar(progress)
	defer b.done()
	report, err := v.Check(ctx, func(p vault.CheckProgress) {
		b.set(&inventory.JobProgress{Done: p.Done, Total: p.Total})
	})
	if err != nil {
		return err
	}
	b.done()
	if err := out.show(report, func(t *table) { drawCheck(t, report) }); err != nil {
		return err
	}
	if report.Severity() < vault.Damage {
		return nil
	}
	return problem.New(problem.Damaged, "choose points that do not need the damaged objects, bring the objects back from a copy of the vault, or ask for a resync of the machines concerned",
		"the vault %s is damaged in %d places", place.vault, len(report.Defects))
}

func drawCheck(t *table, r *vault.CheckReport) {
	t.row("vault", r.Vault)
	t.row("proven", fmt.Sprintf("%d machines, %d objects, %s, %d frames, %d points", r.Machines, r.Objects, size(r.Bytes), r.Frames, r.Points))
	for _, d := range r.Defects {
		t.row(d.Severity, fmt.Sprintf("machine %s, %s: %s", d.Machine, d.Object, d.What))
		if d.Affected != "" {
			t.row("", "affected: "+d.Affected)
		}
	}
	if len(r.Defects) == 0 {
		t.row("result", "everything is as it should be")
	}
}

func newVaultRebuild(o *operator) *cobra.Command {
	var place vaultPlace
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Make the inventory anew from the vault alone",
		Long: `Writes every machine that the vault knows, with its disks, its policy and which disks
are protected, into the inventory of the data directory, which is made if it is gone.
Machines and policies that are known already stay as they are. Every point can be
recovered at once.

The control plane must not run meanwhile. If its certificate authority (DATA/pki) was
lost too, enrol each machine again: understudy token create --machine ID keeps its
history.`,
		Example: "  understudy vault rebuild --data /var/lib/understudy --vault /mnt/vault --vault-key /root/vault.key",
		Args:    asUsage(cobra.NoArgs),
	}
	cmd.RunE = func(*cobra.Command, []string) error {
		return runVaultRebuild(cmd.Context(), o.data, place.in(o.data), o.printer(cmd.OutOrStdout()))
	}
	place.flags(cmd.Flags())
	return cmd
}

// rebuilt is a machine as the vault tells of it.
type rebuilt struct {
	ID       block.MachineID `json:"id"`
	Hostname string          `json:"hostname"`
	Adopted  bool            `json:"adopted"` // it was not in the inventory
	Disks    int             `json:"disks"`
	Points   int             `json:"points"`
	Oldest   time.Time       `json:"oldest,omitzero"`
	Newest   time.Time       `json:"newest,omitzero"`
	Damage   string          `json:"damage,omitempty"`
}

func runVaultRebuild(ctx context.Context, data string, place vaultPlace, out *printer) (err error) {
	log := obs.NewLog(os.Stderr, slog.LevelWarn, false)
	v, err := place.open(ctx, log)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("the data directory: %w", err)
	}
	release, err := lockData(data)
	if err != nil {
		return err
	}
	defer release()
	anew := !exists(filepath.Join(data, inventoryName))
	inv, err := openInventory(ctx, data, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, inv.Close()) }()
	told, err := v.Rebuild(ctx)
	if err != nil {
		return err
	}
	machines := make([]rebuilt, 0, len(told))
	for _, t := range told {
		m, err := adopt(ctx, inv, t, anew)
		if err != nil {
			return err
		}
		machines = append(machines, m)
	}
	return out.show(machines, func(t *table) {
		t.row("HOSTNAME", "ID", "NEW HERE", "DISKS", "POINTS", "OLDEST", "NEWEST", "DAMAGE")
		for _, m := range machines {
			t.row(m.Hostname, m.ID, m.Adopted, m.Disks, m.Points, clock(m.Oldest), clock(m.Newest), m.Damage)
		}
	})
}

// adopt writes a machine of the vault into the inventory. In one that is made anew the
// policies are the vault's, too; else those that are there stand.
func adopt(ctx context.Context, inv *inventory.Inventory, t vault.Protected, anew bool) (rebuilt, error) {
	r := rebuilt{ID: t.Machine, Hostname: "unknown-" + t.Machine.String()[:8], Points: t.Status.Points, Damage: t.Damage}
	a, err := parseAbout(t.About)
	if err != nil {
		return r, err
	}
	if a.Hostname != "" {
		r.Hostname = a.Hostname
	}
	if t.Status.Oldest != nil {
		r.Oldest, r.Newest = t.Status.Oldest.Time, t.Status.Newest.Time
	}
	var disks []desired.Disk
	if n := len(t.Epochs); n > 0 {
		for _, d := range t.Epochs[n-1].Disks {
			disks = append(disks, desired.Disk{ID: d.ID, Name: d.Name, Path: d.Path, Size: d.Size, SectorSize: d.SectorSize})
		}
	}
	r.Disks = len(disks)
	if r.Adopted, err = inv.Adopt(ctx, t.Machine, r.Hostname, disks, a.Protected); err != nil || !r.Adopted || a.Policy.Name == "" {
		return r, err
	}
	if _, err := inv.Policy(ctx, a.Policy.Name); anew || problem.CodeOf(err) == problem.NotFound {
		if _, err := inv.SetPolicy(ctx, a.Policy); err != nil {
			return r, err
		}
	}
	return r, inv.SetMachinePolicy(ctx, t.Machine, a.Policy.Name)
}
