//go:build !linux

package hrl

import (
	"fmt"
	"os"
)

// openStore opens a plain file whatever its kind: a stage in memory that survives the
// process and a stage past the page cache exist on Linux only. What was written is in
// the page cache and so survives the process here too. Nothing keeps a second process
// from the file.
func openStore(path string, _ Kind) (Store, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("hrl: %w", err)
	}
	return fileStore{f}, nil
}

func datasync(f *os.File) error { return f.Sync() }

func reserve(f *os.File, size int64) error {
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("hrl: allocating %d bytes for %s: %w", size, f.Name(), err)
	}
	return nil
}

func pin(*os.File) {}

// syncDir does nothing: a directory cannot be synced on every system.
func syncDir(string) error { return nil }
