package lab

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// sqliteStream commits a row a value to an SQLite database. Its own consistency check
// is a second opinion on a recovered disk, from a program that knows nothing of us.
type sqliteStream struct {
	fs      string
	dir     string
	journal string // SQLite's journal mode: wal or delete
}

func (s sqliteStream) name() string { return s.fs + "/" + s.dir }

func (s sqliteStream) on() []string { return []string{s.fs} }

func (s sqliteStream) path(m mounts) string { return filepath.Join(m[s.fs], s.dir, "app.db") }

func (s sqliteStream) connect(m mounts) (*sql.DB, error) {
	return sql.Open("sqlite", "file:"+s.path(m)+"?_pragma=journal_mode("+s.journal+")&_pragma=synchronous(extra)")
}

func (s sqliteStream) open(m mounts, _ uint64) (writer, error) {
	dir, err := makeDir(m[s.fs], s.dir)
	if err != nil {
		return nil, err
	}
	db, err := s.connect(m)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(context.Background(), "CREATE TABLE IF NOT EXISTS vals(n INTEGER PRIMARY KEY, bytes BLOB NOT NULL)"); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &sqliteWriter{s: s, db: db}, syncDir(dir)
}

type sqliteWriter struct {
	s  sqliteStream
	db *sql.DB
}

func (w *sqliteWriter) Close() error { return w.db.Close() }

func (s sqliteStream) row(n uint64) []byte {
	return content(make([]byte, 64+spread(s.name(), n, 3000)), s.name(), n)
}

func (w *sqliteWriter) write(n uint64) error {
	_, err := w.db.ExecContext(context.Background(), "INSERT INTO vals(n, bytes) VALUES(?, ?)", n, w.s.row(n))
	return err
}

// prefix opens the database as an application would after a power cut, rolling back
// what was not committed: the mount must be writable.
func (s sqliteStream) prefix(m mounts) (uint64, error) {
	if _, err := os.Stat(s.path(m)); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	db, err := s.connect(m)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	ctx := context.Background()
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check").Scan(&verdict); err != nil {
		return 0, fmt.Errorf("%s: SQLite cannot check its database: %w", s.name(), err)
	}
	if verdict != "ok" {
		return 0, fmt.Errorf("%s: SQLite finds its database damaged: %s", s.name(), verdict)
	}
	var tables int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master").Scan(&tables); err != nil || tables == 0 {
		return 0, err
	}
	rows, err := db.QueryContext(ctx, "SELECT n, bytes FROM vals ORDER BY n")
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var found uint64
	for rows.Next() {
		var n uint64
		var b []byte
		if err := rows.Scan(&n, &b); err != nil {
			return 0, err
		}
		if n != found+1 || !bytes.Equal(b, s.row(n)) {
			return 0, fmt.Errorf("%s: row %d follows row %d, or is not what was committed", s.name(), n, found)
		}
		found = n
	}
	return found, rows.Err()
}
