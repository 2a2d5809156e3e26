package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/journal"
)

// roomForFiles tells whether what an agent with the usual settings keeps has room. What
// is there already, of an agent that has run before, needs none any more.
func roomForFiles() []capture.Check {
	program := int64(64 << 20) // where its size cannot be told
	if own, err := os.Executable(); err == nil {
		if info, err := os.Stat(own); err == nil {
			program = info.Size()
		}
	}
	return []capture.Check{
		room(filepath.Dir(installedProgram()), program, "the program", "delete what is not needed there"),
		room(defaultDir, journal.DefaultSpill-allocated(filepath.Join(defaultDir, "spill.hrl")), "the journal's disk stage",
			"free some, or mount a larger file system at "+defaultDir),
		room(journal.DefaultMemoryDir(), journal.DefaultMemory-allocated(journal.DefaultMemoryDir()), "the journal's memory stage",
			"enlarge that tmpfs"),
	}
}

// placeForStop tells whether a clean stop can be written past the file system: to where
// the journal lies on its disk. Else each reboot costs a resync.
func placeForStop(dir string) []capture.Check {
	c := capture.Check{Feature: "the journal's place on a disk", Answer: capture.Yes}
	disk, err := journal.DiskFor(filepath.Join(dir, "spill.hrl"))
	switch {
	case errors.Is(err, journal.ErrNoPlace):
		c.Answer, c.Detail = capture.No, err.Error()
		c.Remedy = "mount an ext4 or xfs at " + dir + " that lies on a partition, or on a plain LVM volume or encryption of one disk"
	case err != nil:
		c.Answer, c.Detail = capture.Unknown, err.Error()
	default:
		c.Detail = dir + " lies on " + disk
	}
	return []capture.Check{c}
}

// room tells whether need bytes more have a place in dir, which may not be there yet.
func room(dir string, need int64, what, remedy string) capture.Check {
	c := capture.Check{Feature: "room for " + what, Answer: capture.Yes}
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	for at := dir; errors.Is(err, fs.ErrNotExist) && at != "/"; {
		at = filepath.Dir(at)
		err = unix.Statfs(at, &st)
	}
	if err != nil {
		c.Answer, c.Detail = capture.Unknown, fmt.Sprintf("%s: %v", dir, err)
		return c
	}
	free := int64(st.Bavail) * st.Bsize
	c.Detail = fmt.Sprintf("%s has %d MiB free, it needs %d", dir, free>>20, max(need, 0)>>20)
	if free < need {
		c.Answer, c.Remedy = capture.No, remedy
	}
	return c
}

// allocated is how much of the file system what lies at path takes; 0 for nothing.
func allocated(path string) (bytes int64) {
	_ = filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			bytes += st.Blocks * 512
		}
		return nil // what cannot be looked at is as good as not there
	})
	return bytes
}
