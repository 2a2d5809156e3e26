package inventory

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// minVerifyEvery keeps passes over whole disks apart.
const minVerifyEvery = time.Minute

// Verify asks the machine's agent for a proof that its disks and the vault's replica are
// equal, and returns the request's number.
func (inv *Inventory) Verify(ctx context.Context, machine block.MachineID) (uint64, error) {
	var number uint64
	err := inv.wanted(ctx, machine, nil, func(tx *sql.Tx, m Machine, disks []Disk) error {
		if err := someProtected(m, disks); err != nil {
			return err
		}
		number = m.Verify.Once + 1
		if _, err := exec(ctx, tx, "UPDATE machines SET verify = ? WHERE id = ?", number, machine.String()); err != nil {
			return err
		}
		return inv.addEvent(ctx, tx, machine, desired.Event{Type: "verify-requested", Severity: desired.Info,
			Message: fmt.Sprintf("an operator asked for proof %d that the disks of machine %s and their replica are equal", number, m.Hostname)})
	})
	return number, err
}

// VerifyAlways lets a proof begin again and again, every so long; never for 0. rate is
// the most to read, in bytes a second; 0 is no limit.
func (inv *Inventory) VerifyAlways(ctx context.Context, machine block.MachineID, every time.Duration, rate int64) (desired.Verify, error) {
	if every != 0 && every < minVerifyEvery || rate < 0 {
		return desired.Verify{}, problem.New(problem.Invalid, "give at least "+minVerifyEvery.String()+", or 0 to end it", "a proof every %s at %d bytes a second makes no sense", every, rate)
	}
	var wish desired.Verify
	err := inv.wanted(ctx, machine, nil, func(tx *sql.Tx, m Machine, disks []Disk) error {
		if every > 0 {
			if err := someProtected(m, disks); err != nil {
				return err
			}
		}
		wish = desired.Verify{Once: m.Verify.Once, Every: int64(every.Seconds()), Rate: rate}
		_, err := exec(ctx, tx, "UPDATE machines SET verify_every = ?, verify_rate = ? WHERE id = ?", wish.Every, wish.Rate, machine.String())
		return err
	})
	return wish, err
}

func someProtected(m Machine, disks []Disk) error {
	if slices.ContainsFunc(disks, func(d Disk) bool { return !d.Protected.IsZero() }) {
		return nil
	}
	return problem.New(problem.DiskUnprotected, "protect a disk first: understudy protect "+m.Hostname+" DISK", "machine %s has no protected disk", m.Hostname)
}
