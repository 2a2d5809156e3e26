package inventory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// How often states are derived to notice transitions, and old rows are dropped.
const (
	trackEvery = time.Second
	pruneEvery = time.Hour
)

// ReplicationOf asks the relay about a machine.
type ReplicationOf func(block.MachineID) Replication

// Facts gathers what the state of the machine is derived from.
func (inv *Inventory) Facts(ctx context.Context, m Machine, replication ReplicationOf) (Facts, error) {
	wanted, err := protectedDisks(ctx, inv.read, m.ID)
	if err != nil {
		return Facts{}, err
	}
	taken, err := takeovers(ctx, inv.read)
	return Facts{Now: inv.now(), Wanted: wanted, Reported: m.Reported, Report: m.Report, Replication: replication(m.ID), Takeover: taken[m.ID]}, err
}

// Track derives every machine's state each second until the context ends, and writes
// an event for each transition, as a=>b. It goes on when the database fails: a full
// disk under the inventory is no reason to stop replication beside it, and the next
// second tries again.
func (inv *Inventory) Track(ctx context.Context, replication ReplicationOf) {
	tick := time.NewTicker(trackEvery)
	defer tick.Stop()
	contacts := make(map[block.MachineID]Contact)
	var pruned time.Time
	for {
		err := inv.noticeAll(ctx, replication, contacts)
		if now := inv.now(); now.Sub(pruned).Abs() > pruneEvery {
			err = errors.Join(err, inv.Prune(ctx))
			pruned = now
		}
		if err != nil && ctx.Err() == nil {
			inv.log.Error("cannot follow the machines' states", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (inv *Inventory) noticeAll(ctx context.Context, replication ReplicationOf, contacts map[block.MachineID]Contact) error {
	machines, err := inv.Machines(ctx)
	if err != nil {
		return err
	}
	wanted, err := inv.wantedDisks(ctx)
	if err != nil {
		return err
	}
	taken, err := takeovers(ctx, inv.read)
	if err != nil {
		return err
	}
	now := inv.now()
	for _, m := range machines {
		s := Derive(Facts{Now: now, Wanted: wanted[m.ID], Reported: m.Reported, Report: m.Report, Replication: replication(m.ID), Takeover: taken[m.ID]})
		if err := inv.notice(ctx, m, s); err != nil {
			return err
		}
		if err := inv.noticeContact(ctx, m, contacts[m.ID], s); err != nil {
			return err
		}
		contacts[m.ID] = s.Contact
	}
	return nil
}

func (inv *Inventory) notice(ctx context.Context, m Machine, s Status) error {
	if m.State == s.State {
		return nil
	}
	e := desired.Event{Type: "state", Severity: desired.Info, Message: fmt.Sprintf("machine %s: %s=>%s", m.Hostname, m.State, s.State)}
	if s.State == Resync {
		e.Severity = desired.Warning
	}
	if s.Reason != "" {
		e.Message += " (" + s.Reason + ")"
	}
	inv.log.Info("machine state", "machine", m.ID, "hostname", m.Hostname, "from", m.State, "to", s.State, "reason", s.Reason)
	return inv.note(ctx, func(tx *sql.Tx) error {
		if _, err := exec(ctx, tx, "UPDATE machines SET state = ?, state_since = ? WHERE id = ?", s.State, nanos(inv.now()), m.ID.String()); err != nil {
			return err
		}
		return inv.addEvent(ctx, tx, m.ID, e)
	})
}

// noticeContact tells of a machine that falls silent and of one that comes back. What
// it was before a restart of the control plane is not known and not guessed.
func (inv *Inventory) noticeContact(ctx context.Context, m Machine, before Contact, s Status) error {
	e := desired.Event{Type: "contact", Message: "machine " + m.Hostname + ": " + string(before) + "=>" + string(s.Contact)}
	switch {
	case before == "" || before == s.Contact || (before != Disconnected && s.Contact != Disconnected):
		return nil
	case s.Contact == Disconnected:
		e.Severity, e.Remedy = desired.Error, "see whether the machine runs and reaches the control plane; its agent keeps capturing and catches up by itself"
	default:
		e.Severity = desired.Info
	}
	return inv.AddEvent(ctx, m.ID, e)
}
