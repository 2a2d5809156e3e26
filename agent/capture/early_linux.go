package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Early begins the capture of this boot before anything of the machine's own writes: in
// the initramfs, or from the first units. It does not know which disks are protected,
// for whoever could tell it lies on one of them: every disk that can be captured is
// tracked, and the agent lets go of the others. Called again it adds the disks that have
// come since.
//
// Of each disk it notes whether a write of this boot went by, by the kernel's own count
// of them. Where one may have, the agent finds the disk in doubt.
func Early(ctx context.Context, o Options) (Origin, error) {
	opened, _, err := Open(o)
	if err != nil {
		return Origin{}, err
	}
	s := opened.(*source)
	defer func() { _ = s.Close() }()
	disks, err := Discover(ctx)
	if err != nil {
		return Origin{}, err
	}
	return s.early(ctx, disks)
}

func (s *source) early(ctx context.Context, disks []Disk) (Origin, error) {
	origin, err := s.readOrigin()
	if errors.Is(err, errNoOrigin) {
		origin, err = s.newOrigin(ctx)
	}
	if err != nil {
		return Origin{}, err
	}
	added := s.trackEarly(ctx, disks)
	if len(added) == 0 && len(origin.Disks) > 0 {
		return origin, nil
	}
	for _, d := range added {
		origin.Disks[d.ID] = beginning(ctx, d)
	}
	return origin, s.keepOrigin(origin)
}

var errArmed = errors.New("capture: an agent of this boot has begun to capture already")

// newOrigin arms a capture that nobody has used yet. The agent of this boot may have: what
// it goes on with is not begun early.
func (s *source) newOrigin(ctx context.Context) (Origin, error) {
	if _, goesOn := s.Armed(); goesOn || len(s.Disks()) > 0 {
		return Origin{}, errArmed
	}
	a, err := s.Arm(ctx)
	return Origin{Armed: a, Initramfs: inInitramfs(), Disks: map[block.DiskID]Beginning{}}, err
}

// inInitramfs: the root is still in memory.
func inInitramfs() bool {
	var st unix.Statfs_t
	return unix.Statfs("/", &st) == nil && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC)
}

// trackEarly tracks what can be tracked and is not, as far as dirty maps for it take no
// more than their share of the memory: smallest first, so that always the same ones are.
func (s *source) trackEarly(ctx context.Context, disks []Disk) (added []Disk) {
	slices.SortStableFunc(disks, func(a, b Disk) int { return int(min(max(a.Size-b.Size, -1), 1)) })
	left := memoryShare()
	for _, d := range disks {
		left -= 2 * chunkBytes * int64(chunksFor(d.Size, granuleFor(d.Size, s.state.Bits != 0), s.state.Bits != 0))
		if s.tracked[d.ID] != nil {
			continue
		}
		if left < 0 {
			s.log.WarnContext(ctx, "disk not tracked early: too many for this machine's memory", "disk", d.Name, "path", d.Path)
			continue
		}
		if err := s.Track(ctx, d); err != nil {
			s.log.WarnContext(ctx, "disk not tracked early", "disk", d.Name, "path", d.Path, "err", err)
			continue
		}
		added = append(added, d)
	}
	return added
}

// memoryShare is how much the dirty maps of disks may take of which nobody knows yet
// whether they are wanted.
func memoryShare() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(uint64(info.Totalram) * uint64(info.Unit) / 32)
}

// earlyLimit is how long a boot waits for a disk that does not answer.
const earlyLimit = 30 * time.Second

// beginning looks at a disk that is tracked since a moment.
func beginning(ctx context.Context, d Disk) Beginning {
	ctx, cancel := context.WithTimeout(ctx, earlyLimit)
	defer cancel()
	// What was submitted before is counted when it is done.
	err := barrier(ctx, []Disk{d})
	if err == nil {
		err = unwritten(d)
	}
	var b Beginning
	if err == nil {
		b.Print, err = TakePrint(d)
	}
	if err != nil {
		b.Missed = err.Error()
	}
	return b
}

// The fields of a disk's stat in sysfs that count what changes it.
var writing = map[int]string{4: "writes", 6: "sectors written", 11: "discards", 13: "sectors discarded"}

// unwritten is nil if the kernel has counted no write to the disk since it found it.
func unwritten(d Disk) error {
	name, err := kernelName(d.Major, d.Minor)
	if err != nil {
		return err
	}
	// A device without requests of its own does not count them on every kernel.
	if _, err := os.Stat(sysBlock + "/" + name + "/mq"); err != nil {
		return fmt.Errorf("%s is a device whose writes the kernel may not count", d.Path)
	}
	if on, err := sysInt(name, "queue/iostats"); err != nil || on != 1 {
		return fmt.Errorf("the kernel does not count the writes to %s (queue/iostats is not 1)", d.Path)
	}
	stat, err := sysString(name, "stat")
	if err != nil {
		return err
	}
	return countedWrites(d.Path, strings.Fields(stat))
}

func countedWrites(path string, fields []string) error {
	for at, what := range writing {
		if at >= len(fields) {
			return fmt.Errorf("the kernel does not count %s of %s", what, path)
		}
		if fields[at] != "0" {
			return fmt.Errorf("%s %s to %s before it was tracked", fields[at], what, path)
		}
	}
	return nil
}
