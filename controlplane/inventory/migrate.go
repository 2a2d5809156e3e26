package inventory

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewer is the answer to a database that a newer build has migrated.
var ErrNewer = errors.New("the database is newer than this understudy")

// migration is one step of the schema; NNNN_name.sql brings it to version NNNN.
type migration struct {
	version int
	name    string
	sql     string
}

func load(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql") // sorted
	if err != nil {
		return nil, err
	}
	var out []migration
	for i, name := range names {
		base := name[len("migrations/"):]
		version, err := strconv.Atoi(base[:min(4, len(base))])
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("inventory: migration %q should be number %04d", base, i+1)
		}
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		out = append(out, migration{version: version, name: base, sql: string(b)})
	}
	return out, nil
}

// migrate runs what the database has not seen yet, each migration with its version
// number in one transaction.
func migrate(ctx context.Context, db *sql.DB, path string, log *slog.Logger) error {
	all, err := load(migrations)
	if err != nil {
		return err
	}
	var have int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return fmt.Errorf("%s: %w", path, fault(err))
	}
	if have > len(all) {
		return fmt.Errorf("inventory: %s: %w: it is at version %d, this build knows %d: start the newer build again, or restore the file from before the upgrade",
			path, ErrNewer, have, len(all))
	}
	for _, m := range all[have:] {
		if err := m.run(ctx, db); err != nil {
			return fmt.Errorf("inventory: %s: migration %s: %w: nothing of it was kept", path, m.name, err)
		}
		log.Info("inventory migrated", "file", path, "migration", m.name)
	}
	return nil
}

func (m migration) run(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if _, err = tx.ExecContext(ctx, m.sql); err == nil {
		_, err = tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", m.version))
	}
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}
