package inventory

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Machine is a machine as the inventory knows it.
type Machine struct {
	ID         block.MachineID
	Hostname   string
	Policy     string
	Enrolled   time.Time
	Generation uint64
	Resync     uint64
	Verify     desired.Verify
	Point      desired.PointWish
	PointUntil time.Time // when a last point (Point.Off) is not wanted any more
	PointMade  uint64    // the newest request for a point that was answered
	Instance   string
	Reported   time.Time // by our clock; zero: never
	Report     desired.Report
	State      State // as last noticed by Track
	StateSince time.Time
}

// Machines lists all machines by hostname.
func (inv *Inventory) Machines(ctx context.Context) ([]Machine, error) {
	return list(ctx, inv.read, scanMachine, selectMachine+" ORDER BY hostname, id")
}

// Machine is the machine with this id. The error is a problem with code
// machine-unknown.
func (inv *Inventory) Machine(ctx context.Context, id block.MachineID) (Machine, error) {
	return machineByID(ctx, inv.read, id)
}

// Resolve finds a machine by its id, by the beginning of its id (8 digits or more),
// or by its hostname, which several machines may share.
func (inv *Inventory) Resolve(ctx context.Context, name string) (Machine, error) {
	found, err := list(ctx, inv.read, scanMachine, selectMachine+" WHERE id = ?1 OR hostname = ?1 OR (length(?1) >= 8 AND substr(id, 1, length(?1)) = ?1)", name)
	if err != nil {
		return Machine{}, err
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Machine{}, problem.New(problem.MachineUnknown, "see understudy machine list", "there is no machine %q", name)
	default:
		var ids []string
		for _, m := range found {
			ids = append(ids, m.ID.String())
		}
		return Machine{}, problem.New(problem.Ambiguous, "use the id of the one you mean", "%d machines are called %q: %s", len(found), name, strings.Join(ids, ", "))
	}
}

// RemoveMachine forgets the machine and shuts its agent out for good. The vault keeps
// the machine's history. A machine with protected disks is not removed.
func (inv *Inventory) RemoveMachine(ctx context.Context, id block.MachineID) error {
	err := inv.update(ctx, func(tx *sql.Tx) error {
		m, err := machineByID(ctx, tx, id)
		if err != nil {
			return err
		}
		disks, err := protectedDisks(ctx, tx, id)
		if err != nil {
			return err
		}
		if len(disks) > 0 {
			return problem.New(problem.Conflict, "understudy unprotect "+m.Hostname+" --all",
				"machine %s still has %d protected disks", m.Hostname, len(disks))
		}
		if err := inv.revokeCertificates(ctx, tx, id, "the machine was removed"); err != nil {
			return err
		}
		if _, err := exec(ctx, tx, "DELETE FROM machines WHERE id = ?", id.String()); err != nil {
			return err
		}
		return inv.addEvent(ctx, tx, id, desired.Event{Type: "removed", Severity: desired.Warning,
			Message: "machine " + m.Hostname + " was removed; the vault keeps its history"})
	})
	inv.wake()
	return err
}

// Adopt writes down a machine that the vault knows and the inventory does not, with
// its disks and which of them shall be protected: agents go on as they were. It
// reports whether the machine was unknown.
func (inv *Inventory) Adopt(ctx context.Context, id block.MachineID, hostname string, disks []desired.Disk, protected []block.DiskID) (bool, error) {
	adopted := false
	err := inv.update(ctx, func(tx *sql.Tx) error {
		known, err := list(ctx, tx, scanMachine, selectMachine+" WHERE id = ?", id.String())
		if err != nil || len(known) > 0 {
			return err
		}
		adopted = true
		if err := inv.insertMachine(ctx, tx, id, hostname); err != nil {
			return err
		}
		if err := putDisks(ctx, tx, id, disks); err != nil {
			return err
		}
		if _, err := exec(ctx, tx, "UPDATE disks SET present = 0 WHERE machine = ?", id.String()); err != nil {
			return err
		}
		for _, d := range protected {
			if _, err := exec(ctx, tx, "UPDATE disks SET protected_at = ? WHERE machine = ? AND id = ?", nanos(inv.now()), id.String(), d.String()); err != nil {
				return err
			}
		}
		return inv.addEvent(ctx, tx, id, desired.Event{Type: "adopted", Severity: desired.Info,
			Message: "machine " + hostname + " was read from the vault",
			Remedy:  "if its agent is refused, enrol it again: understudy token create --machine " + id.String()})
	})
	return adopted, err
}

// SetMachinePolicy makes the machine follow another policy.
func (inv *Inventory) SetMachinePolicy(ctx context.Context, id block.MachineID, policy string) error {
	err := inv.update(ctx, func(tx *sql.Tx) error {
		if _, err := machineByID(ctx, tx, id); err != nil {
			return err
		}
		return setMachinePolicy(ctx, tx, id, policy)
	})
	inv.wake()
	return err
}

func setMachinePolicy(ctx context.Context, tx *sql.Tx, id block.MachineID, policy string) error {
	if _, err := policyByName(ctx, tx, policy); err != nil {
		return err
	}
	_, err := exec(ctx, tx, "UPDATE machines SET policy = ?, generation = generation + 1 WHERE id = ? AND policy <> ?", policy, id.String(), policy)
	return err
}

func (inv *Inventory) insertMachine(ctx context.Context, tx *sql.Tx, id block.MachineID, hostname string) error {
	now := nanos(inv.now())
	_, err := exec(ctx, tx, "INSERT INTO machines (id, hostname, policy, enrolled_at, state, state_since) VALUES (?, ?, ?, ?, ?, ?)",
		id.String(), hostname, DefaultPolicy, now, Unprotected, now)
	return err
}

const selectMachine = "SELECT id, hostname, policy, enrolled_at, generation, resync, verify, verify_every, verify_rate, point, point_name, point_app, point_off, point_until, point_made, instance, reported_at, report, state, state_since FROM machines"

func machineByID(ctx context.Context, q queryer, id block.MachineID) (Machine, error) {
	found, err := list(ctx, q, scanMachine, selectMachine+" WHERE id = ?", id.String())
	if err != nil {
		return Machine{}, err
	}
	if len(found) == 0 {
		return Machine{}, problem.New(problem.MachineUnknown, "see understudy machine list; a machine that was removed must enrol anew", "there is no machine %s", id)
	}
	return found[0], nil
}

func scanMachine(rows *sql.Rows) (m Machine, err error) {
	var id, report string
	var enrolled, reported, since, until int64
	if err := rows.Scan(&id, &m.Hostname, &m.Policy, &enrolled, &m.Generation, &m.Resync, &m.Verify.Once, &m.Verify.Every, &m.Verify.Rate, &m.Point.Once, &m.Point.Name, &m.Point.App, &m.Point.Off, &until, &m.PointMade, &m.Instance, &reported, &report, &m.State, &since); err != nil {
		return m, err
	}
	if m.ID, err = block.ParseMachineID(id); err != nil {
		return m, err
	}
	m.Enrolled, m.Reported, m.StateSince, m.PointUntil = moment(enrolled), moment(reported), moment(since), moment(until)
	if err := json.Unmarshal([]byte(report), &m.Report); err != nil {
		return m, fmt.Errorf("report of machine %s: %w", id, err)
	}
	return m, nil
}
