// Package inventory is what the control plane knows and wants: machines, disks,
// policies, enrolment, jobs, events. It is one SQLite file with one writer. What it
// says about recovery points and machines' histories is not here: the vault is the
// only truth of those, and this file can be rebuilt from it.
//
// What is wanted (protected disks, policy, resync) is written by operators. What is
// the case is reported by agents, complete each time, and kept as it came. A
// machine's state is derived from both by Derive and by nothing else.
package inventory

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/understudy-dr/understudy/pkg/block"
)

// readers is how many queries may run beside the one writer.
const readers = 4

// Inventory is the open database. It is safe for concurrent use.
type Inventory struct {
	log   *slog.Logger
	now   func() time.Time
	write *sql.DB // one connection
	read  *sql.DB

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when anything wanted of an agent changes
	paces   map[block.MachineID]*pace
}

// Open opens the database file, makes it if it is absent, and brings its schema up
// to this build's. now is the clock, usually time.Now.
func Open(ctx context.Context, path string, now func() time.Time, log *slog.Logger) (*Inventory, error) {
	write, err := connect(path, 1)
	if err != nil {
		return nil, err
	}
	inv := &Inventory{log: log, now: now, write: write, changed: make(chan struct{}), paces: make(map[block.MachineID]*pace)}
	if err := migrate(ctx, write, path, log); err != nil {
		return nil, errors.Join(err, write.Close())
	}
	if inv.read, err = connect(path, readers); err != nil {
		return nil, errors.Join(err, write.Close())
	}
	if err := inv.ensureDefaultPolicy(ctx); err != nil {
		return nil, errors.Join(err, inv.Close())
	}
	return inv, nil
}

// Close closes the database. Nobody may use it any more.
func (inv *Inventory) Close() error { return errors.Join(inv.read.Close(), inv.write.Close()) }

func connect(path string, connections int) (*sql.DB, error) {
	q := url.Values{}
	for _, pragma := range []string{"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)"} {
		q.Add("_pragma", pragma)
	}
	q.Set("_txlock", "immediate")
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, fmt.Errorf("inventory: open %s: %w", path, err)
	}
	db.SetMaxOpenConns(connections)
	return db, nil
}

// update runs fn in a transaction that is on stable storage when update returns.
func (inv *Inventory) update(ctx context.Context, fn func(*sql.Tx) error) error {
	return inv.transact(ctx, "FULL", fn)
}

// note is update for facts that would be reported again anyway: a power cut may take
// the last ones back, and a thousand agents do not wait for the disk in turn.
func (inv *Inventory) note(ctx context.Context, fn func(*sql.Tx) error) error {
	return inv.transact(ctx, "NORMAL", fn)
}

func (inv *Inventory) transact(ctx context.Context, synchronous string, fn func(*sql.Tx) error) error {
	conn, err := inv.write.Conn(ctx)
	if err != nil {
		return fault(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "PRAGMA synchronous = "+synchronous); err != nil {
		return fault(err)
	}
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return fault(err)
	}
	if err := fn(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return fault(err)
	}
	return nil
}

// wake tells everybody who waits in AwaitDesired to look again.
func (inv *Inventory) wake() {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	close(inv.changed)
	inv.changed = make(chan struct{})
}

// Changed is closed when anything changes that is wanted of any machine.
func (inv *Inventory) Changed() <-chan struct{} {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.changed
}

// queryer is a database or a transaction.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// list runs a query and scans every row.
func list[T any](ctx context.Context, q queryer, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fault(err)
	}
	defer rows.Close()
	out := []T{} // never nil: it is shown as a JSON list
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, fault(err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fault(err)
	}
	return out, nil
}

// exec runs a statement and says how many rows it changed.
func exec(ctx context.Context, q queryer, statement string, args ...any) (int64, error) {
	r, err := q.ExecContext(ctx, statement, args...)
	if err != nil {
		return 0, fault(err)
	}
	return r.RowsAffected()
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func moment(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

func toJSON(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

func hash(secret string) string {
	s := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(s[:])
}
