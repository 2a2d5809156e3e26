package consistency

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/mounts"
)

// mount is a mounted file system that can be frozen.
type mount struct{ mounts.Mount }

// open opens the mount point and makes sure that it shows this mount, and not one that
// lies over it.
func (m mount) open() (int, error) {
	fd, err := unix.Open(m.Point, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", m, err)
	}
	if id, err := mountOf(fd, ""); err != nil || id != m.ID {
		unix.Close(fd)
		return -1, fmt.Errorf("%s: another file system is mounted over it", m)
	}
	return fd, nil
}

// mountOf is the id of the mount that a path, or an open file, lies on.
func mountOf(dir int, path string) (uint64, error) {
	var st unix.Statx_t
	flags := unix.AT_STATX_DONT_SYNC | unix.AT_NO_AUTOMOUNT
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	if err := unix.Statx(dir, path, flags, unix.STATX_MNT_ID, &st); err != nil {
		return 0, err
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return 0, errors.New("the kernel does not tell mounts apart (before 5.8)")
	}
	return st.Mnt_id, nil
}

// host is what of a machine decides about the order of freezing.
type host struct {
	mounts []mount
	loops  map[string]string // a loop device, and the file system that its file lies on
	above  func(dev string) ([]string, error)
}

// thisHost looks at this machine.
func thisHost() (*host, error) {
	table, err := mounts.Table()
	if err != nil {
		return nil, err
	}
	h := &host{loops: map[string]string{}, above: devicesAbove}
	for _, m := range table {
		h.mounts = append(h.mounts, mount{m})
	}
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		dev, err := os.ReadFile(filepath.Join(filepath.Dir(f), "..", "dev"))
		backing, err1 := os.ReadFile(f)
		if err != nil || err1 != nil {
			continue // it has gone meanwhile
		}
		id, err := mountOf(unix.AT_FDCWD, strings.TrimSpace(string(backing)))
		i := slices.IndexFunc(h.mounts, func(m mount) bool { return m.ID == id })
		if err != nil || i < 0 {
			continue // deleted, or of another mount namespace: where it lies cannot be told
		}
		h.loops[strings.TrimSpace(string(dev))] = h.mounts[i].Dev
	}
	return h, nil
}

// devicesAbove lists a device, its partitions, and whatever is stacked on them.
func devicesAbove(dev string) ([]string, error) {
	found := []string{dev}
	dir := filepath.Join("/sys/dev/block", dev)
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("device %s is gone: %w", dev, err)
	}
	var upper []string
	for _, pattern := range []string{"*/partition", "holders/*/dev"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			upper = append(upper, filepath.Join(filepath.Dir(n), "dev"))
		}
	}
	for _, file := range upper {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		more, err := devicesAbove(strings.TrimSpace(string(b)))
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	return mounts.WithSiblings(found), nil
}

// freezable lists what must be frozen for these disks, in an order that cannot lock up:
// to freeze a file system is to write it back, so one in a file of another comes before
// that other. Of each there is one mount, whatever its bind mounts; one that can only be
// read has nothing to freeze.
func (h *host) freezable(disks []string, late []string) ([]mount, error) {
	devices := map[string]bool{}
	level := map[string]int{} // of a file system: how deep it is in files of others
	for work := slices.Clone(disks); len(work) > 0; {
		dev := work[0]
		work = work[1:]
		if devices[dev] {
			continue
		}
		above, err := h.above(dev)
		if err != nil {
			return nil, err
		}
		for _, d := range above {
			devices[d] = true
		}
		for _, m := range h.mounts {
			if devices[m.Device()] && level[m.Dev] == 0 {
				level[m.Dev] = 1
			}
		}
		for loop, on := range h.loops {
			if level[on] > 0 && !devices[loop] {
				work = append(work, loop)
			}
		}
	}
	if err := h.sink(level); err != nil {
		return nil, err
	}
	if err := h.unknown(devices); err != nil {
		return nil, err
	}
	return h.order(level, late)
}

// withRoot reports whether the root file system is among these.
func (h *host) withRoot(mounts []mount) bool {
	id, err := mountOf(unix.AT_FDCWD, "/")
	i := slices.IndexFunc(h.mounts, func(m mount) bool { return m.ID == id })
	return err == nil && i >= 0 && slices.ContainsFunc(mounts, func(m mount) bool { return m.Dev == h.mounts[i].Dev })
}

// sink gives each file system a level above those whose files it stands on.
func (h *host) sink(level map[string]int) error {
	for range len(level) + 1 {
		changed := false
		for loop, on := range h.loops {
			if level[on] == 0 {
				continue
			}
			above, err := h.above(loop)
			if err != nil {
				return err
			}
			for _, m := range h.mounts {
				if level[m.Dev] > 0 && level[m.Dev] <= level[on] && m.Dev != on && slices.Contains(above, m.Device()) {
					level[m.Dev], changed = level[on]+1, true
				}
			}
		}
		if !changed {
			return nil
		}
	}
	return errors.New("file systems stand on each other's files in a circle: there is no order to freeze them in")
}

// order chooses a mount of each file system and sorts them.
func (h *host) order(level map[string]int, late []string) ([]mount, error) {
	last := map[string]bool{}
	for _, path := range late {
		id, err := mountOf(unix.AT_FDCWD, path)
		for _, m := range h.mounts {
			last[m.Dev] = last[m.Dev] || err == nil && m.ID == id
		}
	}
	var found []mount
	chosen := map[string]bool{}
	hidden := map[string]error{}
	for _, m := range h.mounts {
		if level[m.Dev] == 0 || chosen[m.Dev] || m.ReadOnly() {
			continue
		}
		fd, err := m.open()
		if err != nil {
			hidden[m.Dev] = err
			continue
		}
		unix.Close(fd)
		chosen[m.Dev] = true
		found = append(found, m)
	}
	for dev, err := range hidden {
		if !chosen[dev] {
			return nil, err
		}
	}
	rank := func(m mount) int {
		if last[m.Dev] {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(found, func(a, b mount) int {
		return cmp.Or(cmp.Compare(level[b.Dev], level[a.Dev]), cmp.Compare(rank(a), rank(b)))
	})
	return found, nil
}

// unknown names a device that something uses which is no mount of ours, no swap and no
// device above: ZFS, say, or a mount that only a container sees. It would not be frozen.
func (h *host) unknown(devices map[string]bool) error {
	swaps, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return err
	}
	for dev := range devices {
		above, err := h.above(dev)
		if err != nil || len(above) > 1 {
			continue
		}
		if slices.ContainsFunc(h.mounts, func(m mount) bool { return m.Device() == dev }) {
			continue
		}
		link, err := filepath.EvalSymlinks("/sys/dev/block/" + dev)
		if err != nil {
			continue
		}
		node := "/dev/" + strings.ReplaceAll(filepath.Base(link), "!", "/")
		if strings.Contains(string(swaps), node+" ") {
			continue
		}
		fd, err := unix.Open(node, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("%s is used by something that cannot be frozen from here: a file system of another kind, or one mounted elsewhere (a container)", node)
		}
		if err == nil {
			unix.Close(fd)
		}
	}
	return nil
}
