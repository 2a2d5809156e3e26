package inventory

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Disk is a disk that a machine has or had.
type Disk struct {
	desired.Disk
	Present   bool      `json:"present" doc:"Whether the newest report names it."`
	Protected time.Time `json:"protected,omitzero" doc:"Since when it shall be protected; absent if it shall not."`
}

// Disks lists the machine's disks: those it has, and those it had and that are
// protected.
func (inv *Inventory) Disks(ctx context.Context, machine block.MachineID) ([]Disk, error) {
	return list(ctx, inv.read, scanDiskOnly, selectDisk+" WHERE machine = ? ORDER BY path, id", machine.String())
}

// Protect asks for the protection of these disks, named by id, by the beginning of
// it (8 digits or more), by stable name or by present path. An empty policy leaves
// the machine's as it is. All of it or nothing.
func (inv *Inventory) Protect(ctx context.Context, machine block.MachineID, names []string, policy string) ([]Disk, error) {
	var chosen []Disk
	err := inv.wanted(ctx, machine, names, func(tx *sql.Tx, m Machine, disks []Disk) error {
		chosen = disks
		for _, d := range disks {
			if err := protectable(m, d); err != nil {
				return err
			}
			if err := inv.markProtected(ctx, tx, m, d, inv.now()); err != nil {
				return err
			}
		}
		if policy == "" {
			return nil
		}
		return setMachinePolicy(ctx, tx, machine, policy)
	})
	return chosen, err
}

// Unprotect ends the protection of these disks; no name means all. The vault keeps
// what it has of them.
func (inv *Inventory) Unprotect(ctx context.Context, machine block.MachineID, names []string) ([]Disk, error) {
	var chosen []Disk
	err := inv.wanted(ctx, machine, names, func(tx *sql.Tx, m Machine, disks []Disk) error {
		for _, d := range disks {
			if d.Protected.IsZero() && len(names) > 0 {
				return problem.New(problem.DiskUnprotected, "see understudy disk list "+m.Hostname, "disk %s of machine %s is not protected", d.Name, m.Hostname)
			}
			if d.Protected.IsZero() {
				continue
			}
			chosen = append(chosen, d)
			if err := inv.markProtected(ctx, tx, m, d, time.Time{}); err != nil {
				return err
			}
		}
		if len(chosen) == 0 {
			return problem.New(problem.DiskUnprotected, "nothing is left to do", "machine %s has no protected disk", m.Hostname)
		}
		return forgetGone(ctx, tx, machine)
	})
	return chosen, err
}

// Resync asks the machine's agent for a resync of all its protected disks and returns
// the request's number.
func (inv *Inventory) Resync(ctx context.Context, machine block.MachineID) (uint64, error) {
	var number uint64
	err := inv.wanted(ctx, machine, nil, func(tx *sql.Tx, m Machine, disks []Disk) error {
		if err := someProtected(m, disks); err != nil {
			return err
		}
		number = m.Resync + 1
		if _, err := exec(ctx, tx, "UPDATE machines SET resync = ? WHERE id = ?", number, machine.String()); err != nil {
			return err
		}
		return inv.addEvent(ctx, tx, machine, desired.Event{Type: "resync-requested", Severity: desired.Info,
			Message: fmt.Sprintf("an operator asked machine %s for resync %d", m.Hostname, number)})
	})
	return number, err
}

// wanted changes what is wanted of a machine: it resolves the disks (no name: all),
// runs fn, raises the generation and wakes the machine's agent.
func (inv *Inventory) wanted(ctx context.Context, machine block.MachineID, names []string, fn func(*sql.Tx, Machine, []Disk) error) error {
	err := inv.update(ctx, func(tx *sql.Tx) error {
		m, err := machineByID(ctx, tx, machine)
		if err != nil {
			return err
		}
		disks, err := resolveDisks(ctx, tx, m, names)
		if err != nil {
			return err
		}
		if err := fn(tx, m, disks); err != nil {
			return err
		}
		_, err = exec(ctx, tx, "UPDATE machines SET generation = generation + 1 WHERE id = ?", machine.String())
		return err
	})
	if err == nil {
		inv.wake()
	}
	return err
}

func (inv *Inventory) markProtected(ctx context.Context, tx *sql.Tx, m Machine, d Disk, since time.Time) error {
	if _, err := exec(ctx, tx, "UPDATE disks SET protected_at = ? WHERE machine = ? AND id = ?", nanos(since), m.ID.String(), d.ID.String()); err != nil {
		return err
	}
	e := desired.Event{Disk: d.ID, Type: "protect", Severity: desired.Info, Message: fmt.Sprintf("disk %s of machine %s shall be protected", d.Name, m.Hostname)}
	if since.IsZero() {
		e.Type, e.Severity = "unprotect", desired.Warning
		e.Message = fmt.Sprintf("disk %s of machine %s shall not be protected any more; the vault keeps what it has", d.Name, m.Hostname)
	}
	return inv.addEvent(ctx, tx, m.ID, e)
}

func protectable(m Machine, d Disk) error {
	if !d.Protected.IsZero() {
		return problem.New(problem.DiskProtected, "nothing is left to do; for a fresh copy: understudy resync "+m.Hostname,
			"disk %s of machine %s is protected since %s", d.Name, m.Hostname, d.Protected.Format(time.RFC3339))
	}
	if !d.Present {
		return problem.New(problem.DiskGone, "attach it again, wait for the agent's next report and protect it then",
			"disk %s (last at %s) of machine %s is gone", d.Name, d.Path, m.Hostname)
	}
	return nil
}

func resolveDisks(ctx context.Context, tx *sql.Tx, m Machine, names []string) ([]Disk, error) {
	all, err := list(ctx, tx, scanDiskOnly, selectDisk+" WHERE machine = ? ORDER BY path, id", m.ID.String())
	if err != nil || len(names) == 0 {
		return all, err
	}
	var out []Disk
	for _, name := range names {
		d, err := resolveDisk(m, all, name)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(out, func(o Disk) bool { return o.ID == d.ID }) {
			out = append(out, d)
		}
	}
	return out, nil
}

func resolveDisk(m Machine, all []Disk, name string) (Disk, error) {
	var fits []Disk
	var have []string
	for _, d := range all {
		id := d.ID.String()
		if name == id || name == d.Name || (name == d.Path && d.Present) || (len(name) >= 8 && strings.HasPrefix(id, name)) {
			fits = append(fits, d)
		}
		have = append(have, fmt.Sprintf("%s (%s)", d.Path, d.Name))
	}
	switch {
	case len(fits) == 1:
		return fits[0], nil
	case len(fits) > 1:
		return Disk{}, problem.New(problem.Ambiguous, "use the id of the one you mean: understudy disk list "+m.Hostname, "%d disks of machine %s fit %q", len(fits), m.Hostname, name)
	case len(have) == 0:
		return Disk{}, problem.New(problem.DiskUnknown, "start its agent and wait for its first report", "machine %s has not reported any disk yet", m.Hostname)
	default:
		return Disk{}, problem.New(problem.DiskUnknown, "see understudy disk list "+m.Hostname, "machine %s has no disk %q; it has %s", m.Hostname, name, strings.Join(have, ", "))
	}
}

// putDisks takes in the disks of a report: those it names are present, those it does
// not are gone, and forgotten unless they are protected.
func putDisks(ctx context.Context, tx *sql.Tx, machine block.MachineID, disks []desired.Disk) error {
	if _, err := exec(ctx, tx, "UPDATE disks SET present = 0 WHERE machine = ?", machine.String()); err != nil {
		return err
	}
	for _, d := range disks {
		if _, err := exec(ctx, tx, `INSERT INTO disks (machine, id, name, path, size, sector_size, filesystem, present) VALUES (?, ?, ?, ?, ?, ?, ?, 1)
			ON CONFLICT (machine, id) DO UPDATE SET name = excluded.name, path = excluded.path, size = excluded.size,
			sector_size = excluded.sector_size, filesystem = excluded.filesystem, present = 1`,
			machine.String(), d.ID.String(), d.Name, d.Path, d.Size, d.SectorSize, d.Filesystem); err != nil {
			return err
		}
	}
	return forgetGone(ctx, tx, machine)
}

func forgetGone(ctx context.Context, tx *sql.Tx, machine block.MachineID) error {
	_, err := exec(ctx, tx, "DELETE FROM disks WHERE machine = ? AND present = 0 AND protected_at = 0", machine.String())
	return err
}

func protectedDisks(ctx context.Context, q queryer, machine block.MachineID) ([]Disk, error) {
	return list(ctx, q, scanDiskOnly, selectDisk+" WHERE machine = ? AND protected_at > 0 ORDER BY id", machine.String())
}

// wantedDisks are the protected disks of all machines.
func (inv *Inventory) wantedDisks(ctx context.Context) (map[block.MachineID][]Disk, error) {
	type row struct {
		machine string
		disk    Disk
	}
	rows, err := list(ctx, inv.read, func(rows *sql.Rows) (r row, err error) {
		r.disk, err = scanDisk(rows, &r.machine)
		return r, err
	}, strings.Replace(selectDisk, "SELECT ", "SELECT machine, ", 1)+" WHERE protected_at > 0 ORDER BY machine, id")
	if err != nil {
		return nil, err
	}
	all := make(map[block.MachineID][]Disk)
	for _, r := range rows {
		id, err := block.ParseMachineID(r.machine)
		if err != nil {
			return nil, err
		}
		all[id] = append(all[id], r.disk)
	}
	return all, nil
}

const selectDisk = "SELECT id, name, path, size, sector_size, filesystem, present, protected_at FROM disks"

func scanDiskOnly(rows *sql.Rows) (Disk, error) { return scanDisk(rows) }

// scanDisk scans the columns of selectDisk, and those before them into before.
func scanDisk(rows *sql.Rows, before ...any) (d Disk, err error) {
	var id string
	var protected int64
	if err := rows.Scan(append(before, &id, &d.Name, &d.Path, &d.Size, &d.SectorSize, &d.Filesystem, &d.Present, &protected)...); err != nil {
		return d, err
	}
	d.Protected = moment(protected)
	d.ID, err = block.ParseDiskID(id)
	return d, err
}
