// Package mounts reads what is mounted on this machine: the kernel's table, and which
// devices a mount stands on. Those who freeze file systems, write them out or ask them
// for their free space choose from it.
package mounts

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is a mounted file system.
type Mount struct {
	ID    uint64 `json:"id"`    // of the mount
	Dev   string `json:"dev"`   // of the file system, major:minor; made up by some (btrfs)
	Type  string `json:"type"`  // ext4, xfs, …
	Point string `json:"point"` // where it is mounted

	Source  string `json:"-"` // /dev/sda1, or whatever the file system calls it
	Options string `json:"-"` // of the super block, by commas
}

// String names the mount to an operator.
func (m Mount) String() string { return fmt.Sprintf("%s on %s", m.Type, m.Point) }

// Table is what this process's mount namespace sees, in the order of mounting.
func Table() ([]Mount, error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return Parse(string(raw)), nil
}

// Parse reads a mountinfo table. A line that is none is passed over.
func Parse(mountinfo string) []Mount {
	var all []Mount
	for line := range strings.Lines(mountinfo) {
		if m, ok := ParseLine(line); ok {
			all = append(all, m)
		}
	}
	return all
}

// ParseLine reads a line of it: id, parent, major:minor, root, mount point, options,
// optional fields up to a dash, type, source, super block's options.
func ParseLine(line string) (Mount, bool) {
	head, tail, cut := strings.Cut(line, " - ")
	h, t := strings.Fields(head), strings.Fields(tail)
	if !cut || len(h) < 6 || len(t) < 3 {
		return Mount{}, false
	}
	id, err := strconv.ParseUint(h[0], 10, 64)
	if err != nil {
		return Mount{}, false
	}
	return Mount{ID: id, Dev: h[2], Type: t[0], Point: unescape(h[4]), Source: unescape(t[1]), Options: t[2]}, true
}

// unescape undoes the kernel's \ooo for blanks and the like in paths.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Device is the number of the block device that the file system lies on: its own, or
// that of its source where its own is made up.
func (m Mount) Device() string {
	if strings.HasPrefix(m.Dev, "0:") {
		if dev := DeviceAt(m.Source); dev != "" {
			return dev
		}
	}
	return m.Dev
}

// ReadOnly: nothing is written through any of its mounts.
func (m Mount) ReadOnly() bool { return slices.Contains(strings.Split(m.Options, ","), "ro") }

// DeviceAt is the number, major:minor, of the block device at a path; empty if there is
// none.
func DeviceAt(path string) string {
	var st unix.Stat_t
	if !filepath.IsAbs(path) || unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	return Number(st.Rdev)
}

// Number writes a device's number as the kernel's files do.
func Number(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }

// WithSiblings adds the other devices of each btrfs that has one of these: its mount
// names any of them.
func WithSiblings(devices []string) []string {
	all := slices.Clone(devices)
	systems, _ := filepath.Glob("/sys/fs/btrfs/*/devices") // the pattern is sound
	for _, dir := range systems {
		var own []string
		links, _ := filepath.Glob(filepath.Join(dir, "*", "dev"))
		for _, l := range links {
			if dev, err := os.ReadFile(l); err == nil {
				own = append(own, strings.TrimSpace(string(dev)))
			}
		}
		if slices.ContainsFunc(own, func(dev string) bool { return slices.Contains(devices, dev) }) {
			all = append(all, own...)
		}
	}
	return all
}
