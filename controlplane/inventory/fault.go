package inventory

import (
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/understudy-dr/understudy/pkg/problem"
)

// fault tells what an operator can do about a failing database from what is our own
// mistake.
func fault(err error) error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return fmt.Errorf("inventory: %w", err)
	}
	switch e.Code() & 0xff { // the primary code
	case sqlite3.SQLITE_FULL:
		return problem.New(problem.Unavailable, "free some space on the disk of the data directory; replication goes on meanwhile", "the inventory cannot be written: its disk is full")
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
		return problem.New(problem.Unavailable, "look at the disk of the data directory and at its mount; replication goes on meanwhile", "the inventory cannot be used: %v", e)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return problem.New(problem.Damaged, "stop the control plane, move inventory.db away, and run understudy vault rebuild, or restore a backup", "the inventory is damaged: %v", e)
	default:
		return fmt.Errorf("inventory: %w", err)
	}
}
