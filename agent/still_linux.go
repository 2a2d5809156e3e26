package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/understudy-dr/understudy/agent/capture"
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
		if err := arrays(d); err != nil {
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

// arrays refuses a disk under an md array, which is told at the very end that it is clean.
func arrays(d capture.Disk) error {
	dir := fmt.Sprintf("/sys/dev/block/%d:%d", d.Major, d.Minor)
	for _, pattern := range []string{"/holders/md*", "/*/holders/md*"} {
		if found, _ := filepath.Glob(dir + pattern); len(found) > 0 { // the patterns are well formed
			return fmt.Errorf("%s is in the array %s, which writes to it when the machine stops", d.Path, filepath.Base(found[0]))
		}
	}
	return nil
}
