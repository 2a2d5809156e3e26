package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/mapper"
	"github.com/understudy-dr/understudy/agent/mounts"
)

// stillWritten is nil when nobody can write to the disks any more but who opens one by
// its name.
func stillWritten(disks []capture.Disk) error {
	needless, err := withoutDevice("/proc/filesystems")
	if err != nil {
		return err
	}
	if err := lines("/proc/self/mountinfo", func(line string) error { return writableMount(line, needless) }); err != nil {
		return err
	}
	if err := lines("/proc/swaps", swapsTo); err != nil {
		return err
	}
	for _, d := range disks {
		if err := selfWriting(d); err != nil {
			return err
		}
	}
	return nil
}

func lines(path string, do func(line string) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if err := do(s.Text()); err != nil {
			return err
		}
	}
	return s.Err()
}

// withoutDevice are the kinds of file systems that lie on no device.
func withoutDevice(path string) (map[string]bool, error) {
	kinds := map[string]bool{}
	return kinds, lines(path, func(line string) error {
		if kind, ok := strings.CutPrefix(line, "nodev\t"); ok {
			kinds[kind] = true
		}
		return nil
	})
}

// writableMount refuses a line of mountinfo of a file system that may still be written
// to. What counts is the file system's own state, which all its mounts share:
//
//	36 35 98:0 /root /mnt rw,noatime shared:1 - ext4 /dev/sda1 rw,errors=continue
func writableMount(line string, needless map[string]bool) error {
	m, ok := mounts.ParseLine(line)
	if !ok {
		return fmt.Errorf("a line of mountinfo that cannot be read: %q", line)
	}
	kind, _, _ := strings.Cut(m.Type, ".")
	if needless[kind] || m.ReadOnly() {
		return nil
	}
	return fmt.Errorf("%s (%s on %s) is mounted and can still be written to", m.Point, m.Type, m.Source)
}

// swapsTo refuses a line of /proc/swaps but its head and memory.
func swapsTo(line string) error {
	if strings.HasPrefix(line, "Filename") || strings.HasPrefix(line, "/dev/zram") || line == "" {
		return nil
	}
	return fmt.Errorf("%s is still swapped to", strings.Fields(line)[0])
}

// quiet are the kinds of device-mapper's targets that write only what is written to them.
var quiet = []string{mapper.Linear, mapper.Crypt, "striped", "multipath", "verity", "error", "zero"}

// selfWriting refuses a disk under something that writes to it by itself: an md array is
// told at the very end that it is clean, a pool or a cache of device-mapper goes on
// tidying. What systemd could take down is not there any more; what is under the root is.
func selfWriting(d capture.Disk) error {
	return above(fmt.Sprintf("/sys/dev/block/%d:%d", d.Major, d.Minor), d.Path, mapper.Table)
}

// above looks at what holds the device of this directory of sysfs, or a partition of it,
// and at what holds that.
func above(dir, path string, table func(dev uint64) ([]mapper.Target, error)) error {
	for _, pattern := range []string{"/holders/*", "/*/holders/*"} {
		found, _ := filepath.Glob(dir + pattern) // the patterns are well formed
		for _, holder := range found {
			if err := passesOn(holder, path, table); err != nil {
				return err
			}
			if err := above(holder, path, table); err != nil {
				return err
			}
		}
	}
	return nil
}

// passesOn is nil if a device writes only what is written to it.
func passesOn(holder, path string, table func(dev uint64) ([]mapper.Target, error)) error {
	name := filepath.Base(holder)
	if _, err := os.Stat(filepath.Join(holder, "dm")); err != nil {
		return fmt.Errorf("%s is in %s (md, bcache), which writes to it by itself when the machine stops", path, name)
	}
	dev, err := mapper.Number(holder)
	if err != nil {
		return err
	}
	targets, err := table(dev)
	if err != nil {
		return fmt.Errorf("%s is under %s: %w", path, name, err)
	}
	for _, t := range targets {
		if !slices.Contains(quiet, t.Kind) {
			return fmt.Errorf("%s is under %s, device-mapper's %s, which writes to it by itself", path, name, t.Kind)
		}
	}
	return nil
}
