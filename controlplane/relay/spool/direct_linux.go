package spool

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// openDirect opens a file for writing past the page cache; nil where the file system
// does not know it. What is spooled is read again only after a restart or by a relay
// that is behind: copying it into the page cache cost more than encrypting it.
func openDirect(path string) *os.File {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return nil
	}
	return f
}

// refused says that a disk wants direct writes aligned otherwise.
func refused(err error) bool { return errors.Is(err, unix.EINVAL) }
