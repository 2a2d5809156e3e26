package spool

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate reserves the file's blocks now, so that a full disk shows when a segment
// is made and not in the middle of one.
func allocate(f *os.File, size int64) error {
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return f.Truncate(size)
		}
		return &os.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
	return nil
}

// syncData makes the file's bytes durable, without times that nobody reads.
func syncData(f *os.File) error {
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}
