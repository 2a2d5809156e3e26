package inventory

import (
	"context"
	"database/sql"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// tellEvery is how often the operator is told of what goes on and on.
const tellEvery = time.Minute

// What is kept of the past, at most. Events are counted by machine, so that a noisy
// one does not push out what happened to the others.
const (
	keepEvents = 10_000
	keepAudit  = 100_000
)

// Event is something that happened to a machine, or to the control plane itself.
type Event struct {
	ID       int64            `json:"id" doc:"Grows with time."`
	Time     time.Time        `json:"time" doc:"By the clock of whoever noticed it."`
	Machine  string           `json:"machine,omitempty"`
	Disk     string           `json:"disk,omitempty"`
	Type     string           `json:"type"`
	Severity desired.Severity `json:"severity"`
	Message  string           `json:"message"`
	Remedy   string           `json:"remedy,omitempty"`
}

// EventFilter chooses events. The zero filter chooses all.
type EventFilter struct {
	Machine block.MachineID
	Type    string
	After   int64 // only events with a higher id, the oldest first
	Limit   int   // 0: 100
}

// Events lists the newest events that fit, the oldest of them first. With After it
// lists the events that follow, so that a reader who goes on from the last id it saw
// misses none.
func (inv *Inventory) Events(ctx context.Context, f EventFilter) ([]Event, error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	machine := ""
	if !f.Machine.IsZero() {
		machine = f.Machine.String()
	}
	const columns = "id, at, machine, disk, type, severity, message, remedy"
	const where = " FROM events WHERE id > ?1 AND (?2 = '' OR machine = ?2) AND (?3 = '' OR type = ?3) ORDER BY id "
	query := "SELECT " + columns + where + "ASC LIMIT ?4"
	if f.After == 0 {
		query = "SELECT " + columns + " FROM (SELECT " + columns + where + "DESC LIMIT ?4) ORDER BY id"
	}
	return list(ctx, inv.read, scanEvent, query, f.After, machine, f.Type, f.Limit)
}

// AddEvent writes down an event. A zero machine means the control plane itself; a
// zero time means now.
func (inv *Inventory) AddEvent(ctx context.Context, machine block.MachineID, e desired.Event) error {
	return inv.note(ctx, func(tx *sql.Tx) error { return inv.addEvent(ctx, tx, machine, e) })
}

func (inv *Inventory) addEvent(ctx context.Context, tx *sql.Tx, machine block.MachineID, e desired.Event) error {
	if e.Time.IsZero() {
		e.Time = inv.now()
	}
	var m, d string
	if !machine.IsZero() {
		m = machine.String()
	}
	if !e.Disk.IsZero() {
		d = e.Disk.String()
	}
	_, err := exec(ctx, tx, "INSERT INTO events (at, machine, disk, type, severity, message, remedy) VALUES (?, ?, ?, ?, ?, ?, ?)",
		nanos(e.Time), m, d, e.Type, e.Severity, e.Message, e.Remedy)
	return err
}

func scanEvent(rows *sql.Rows) (e Event, err error) {
	var at int64
	err = rows.Scan(&e.ID, &at, &e.Machine, &e.Disk, &e.Type, &e.Severity, &e.Message, &e.Remedy)
	e.Time = moment(at)
	return e, err
}

// Entry is one line of the audit log.
type Entry struct {
	ID     int64     `json:"id"`
	Time   time.Time `json:"time"`
	Who    string    `json:"who"`
	Verb   string    `json:"verb"`
	Target string    `json:"target"`
	Result string    `json:"result" doc:"begun, ok, or what went wrong. One that stays at begun was cut short."`
}

// Begin writes into the audit log, before it happens, what somebody is about to do.
func (inv *Inventory) Begin(ctx context.Context, who, verb, target string) (int64, error) {
	var id int64
	err := inv.update(ctx, func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, "INSERT INTO audit (at, who, verb, target, result) VALUES (?, ?, ?, ?, 'begun')", nanos(inv.now()), who, verb, target)
		if err != nil {
			return fault(err)
		}
		id, err = r.LastInsertId()
		return err
	})
	return id, err
}

// End writes down how it went.
func (inv *Inventory) End(ctx context.Context, id int64, result string) error {
	return inv.update(ctx, func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, "UPDATE audit SET result = ? WHERE id = ?", result, id)
		return err
	})
}

// Audit lists the newest entries, the newest first.
func (inv *Inventory) Audit(ctx context.Context, limit int) ([]Entry, error) {
	if limit <= 0 {
		limit = 100
	}
	return list(ctx, inv.read, func(rows *sql.Rows) (e Entry, err error) {
		var at int64
		err = rows.Scan(&e.ID, &at, &e.Who, &e.Verb, &e.Target, &e.Result)
		e.Time = moment(at)
		return e, err
	}, "SELECT id, at, who, verb, target, result FROM audit ORDER BY id DESC LIMIT ?", limit)
}

// Prune bounds what is kept of the past: events, the audit log, and tokens and
// certificates that ended long ago.
func (inv *Inventory) Prune(ctx context.Context) error {
	monthAgo := nanos(inv.now().Add(-30 * 24 * time.Hour))
	return inv.note(ctx, func(tx *sql.Tx) error {
		for _, s := range []struct {
			statement string
			arg       any
		}{
			{"DELETE FROM events WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY machine ORDER BY id DESC) AS n FROM events) WHERE n > ?)", keepEvents},
			{"DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?", keepAudit},
			{"DELETE FROM tokens WHERE expires_at < ?", monthAgo},
			{"DELETE FROM certificates WHERE not_after < ?", monthAgo},
		} {
			if _, err := exec(ctx, tx, s.statement, s.arg); err != nil {
				return err
			}
		}
		return nil
	})
}
