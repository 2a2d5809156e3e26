package resync

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/mounts"
	"github.com/understudy-dr/understudy/pkg/block"
)

// mount is a mounted file system that lies directly on the disk or on a partition.
type mount struct {
	mounts.Mount
	part part
	// between is called between asking for free space and syncing; for tests.
	between func()
}

// part is the disk itself or a partition of it.
type part struct {
	dev string // "8:1"
	block.Extent
}

// mounts lists the file systems on the disk, one mount of each, in the disk's order.
func (d *linuxDevice) mounts() ([]mount, error) {
	if d.sysfs == "" {
		return nil, nil
	}
	parts, err := parts(d.sysfs)
	if err != nil {
		return nil, err
	}
	table, err := mounts.Table()
	if err != nil {
		return nil, err
	}
	found := onParts(table, parts)
	slices.SortFunc(found, func(a, b mount) int { return cmp.Compare(a.part.Off, b.part.Off) })
	for i := range found {
		found[i].between = d.between
	}
	return found, nil
}

// onParts finds in a table of mounts the file systems on the given parts.
func onParts(table []mounts.Mount, parts []part) []mount {
	var found []mount
	for _, m := range table {
		if i := slices.IndexFunc(parts, func(p part) bool { return p.dev == m.Dev }); i >= 0 {
			found = once(found, mount{Mount: m, part: parts[i]})
		}
	}
	return found
}

// once adds a mount to those found. Of several mounts of one file system the first that
// can be opened serves: the others may lie hidden under something mounted on top.
func once(found []mount, m mount) []mount {
	same := slices.IndexFunc(found, func(o mount) bool { return o.Dev == m.Dev })
	switch {
	case same < 0:
		return append(found, m)
	case !found[same].visible():
		found[same] = m
	}
	return found
}

// parts lists a disk and its partitions by their place in sysfs.
func parts(sysfs string) ([]part, error) {
	dev, err := os.ReadFile(filepath.Join(sysfs, "dev"))
	if err != nil {
		return nil, err
	}
	sectors, err := number(sysfs, "size")
	if err != nil {
		return nil, err
	}
	all := []part{{strings.TrimSpace(string(dev)), block.Extent{Len: sectors * block.SectorSize}}}
	inside, err := filepath.Glob(filepath.Join(sysfs, "*", "partition"))
	if err != nil {
		return nil, err
	}
	for _, p := range inside {
		dir := filepath.Dir(p)
		dev, err := os.ReadFile(filepath.Join(dir, "dev"))
		start, err1 := number(dir, "start")
		sectors, err2 := number(dir, "size")
		if err := errors.Join(err, err1, err2); err != nil {
			return nil, err
		}
		all = append(all, part{strings.TrimSpace(string(dev)), block.Extent{Off: start * block.SectorSize, Len: sectors * block.SectorSize}})
	}
	return all, nil
}

func number(dir, file string) (int64, error) {
	raw, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
}

// understood says why the file system's word on free space cannot be taken, or nil.
func (m mount) understood() error {
	if m.Type != "ext4" && m.Type != "xfs" {
		return errors.New("its free space is not understood")
	}
	for opt := range strings.SplitSeq(m.Options, ",") {
		if strings.HasPrefix(opt, "logdev=") || strings.HasPrefix(opt, "rtdev=") || strings.HasPrefix(opt, "journal_path=") || strings.HasPrefix(opt, "journal_dev=") {
			return fmt.Errorf("it lies on several devices (%s)", opt)
		}
	}
	return nil
}

// open opens the file system's mount point, and makes sure that it is this one and
// not something mounted over it.
func (m mount) open() (int, error) {
	fd, err := unix.Open(m.Point, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err != nil {
		return -1, err
	}
	if !m.shows(fd) {
		unix.Close(fd)
		return -1, errors.New("another file system is mounted over it")
	}
	return fd, nil
}

// shows reports whether an open file is of this mount.
func (m mount) shows(fd int) bool {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil && mounts.Number(st.Dev) == m.Dev {
		return true
	}
	var fs unix.Statfs_t // a subvolume of btrfs has a device number of its own
	return m.Type == "btrfs" && unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.BTRFS_SUPER_MAGIC
}

func (m mount) visible() bool {
	fd, err := m.open()
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

// name tells file systems apart: where it lies, which one it is, how large it is.
func (m mount) name(fd int) (string, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s@%d+%d:%x.%x/%d", m.Type, m.part.Off, m.part.Len, uint32(st.Fsid.Val[0]), uint32(st.Fsid.Val[1]), st.Blocks), nil
}
