package mapper

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/hrl"
)

// ToDisk follows pieces of a device, whichever, down to the whole disk that bears them all:
// through partitions, LVM's plain volumes and encryption. They come back in the order of
// where they are in the file, or whatever else they are pieces of.
func ToDisk(dev uint64, pieces []hrl.Piece) (disk uint64, there []hrl.Piece, err error) {
	return toDisk(dev, pieces, layer)
}

func toDisk(dev uint64, pieces []hrl.Piece, under func(dev uint64) ([]Target, error)) (disk uint64, there []hrl.Piece, err error) {
	found := map[uint64][]hrl.Piece{}
	if err := sink(dev, pieces, under, found); err != nil {
		return 0, nil, err
	}
	disks := slices.Sorted(maps.Keys(found))
	switch len(disks) {
	case 0:
		return 0, nil, errors.New("it has no bytes")
	case 1:
	default:
		return 0, nil, fmt.Errorf("it lies on two disks, %s and %s: move the volume onto one (pvmove)", Name(disks[0]), Name(disks[1]))
	}
	there = found[disks[0]]
	slices.SortFunc(there, func(a, b hrl.Piece) int { return int(min(max(a.At-b.At, -1), 1)) })
	return disks[0], there, nil
}

// sink adds to found where pieces of a device lie, by whole disk.
func sink(dev uint64, pieces []hrl.Piece, under func(dev uint64) ([]Target, error), found map[uint64][]hrl.Piece) error {
	targets, err := under(dev)
	if err != nil {
		return err
	}
	if targets == nil {
		found[dev] = append(found[dev], pieces...)
		return nil
	}
	below := map[uint64][]hrl.Piece{}
	for _, p := range pieces {
		left := p.Len
		for _, t := range targets {
			e := p.Intersect(t.Extent)
			if e.Empty() {
				continue
			}
			if !t.InPlace() {
				return fmt.Errorf("%s is mapped by device-mapper's %s, which keeps nothing in a place that could be told", Name(dev), t.Kind)
			}
			lower := unix.Mkdev(t.Major, t.Minor)
			below[lower] = append(below[lower], hrl.Piece{
				At: p.At + e.Off - p.Off, Extent: block.Extent{Off: t.Below + e.Off - t.Off, Len: e.Len},
			})
			left -= e.Len
		}
		if left != 0 {
			return fmt.Errorf("%s ends before %d", Name(dev), p.End())
		}
	}
	for lower, pieces := range below {
		if err := sink(lower, pieces, under, found); err != nil {
			return err
		}
	}
	return nil
}

// layer is what a device lies on: nothing (nil) for a whole disk.
func layer(dev uint64) ([]Target, error) {
	sys := sysOf(dev)
	if _, err := os.Stat(sys); err != nil {
		return nil, err
	}
	if Mapped(dev) {
		targets, err := Table(dev)
		if err == nil && len(targets) == 0 {
			err = fmt.Errorf("%s has no table", Name(dev))
		}
		return targets, err
	}
	if slaves, _ := os.ReadDir(filepath.Join(sys, "slaves")); len(slaves) > 0 {
		return nil, fmt.Errorf("%s is stacked on %d other devices by something else than device-mapper (md, bcache)", Name(dev), len(slaves))
	}
	if exists(filepath.Join(sys, "partition")) {
		return partition(sys)
	}
	return nil, nil
}

// partition is a stretch of its disk.
func partition(sys string) ([]Target, error) {
	start, errStart := sectors(filepath.Join(sys, "start"))
	size, errSize := sectors(filepath.Join(sys, "size"))
	dir, errDir := filepath.EvalSymlinks(sys)
	if err := errors.Join(errStart, errSize, errDir); err != nil {
		return nil, err
	}
	t := Target{Extent: block.Extent{Len: size}, Kind: Linear, Below: start}
	disk, err := Number(filepath.Dir(dir))
	t.Major, t.Minor = unix.Major(disk), unix.Minor(disk)
	return []Target{t}, err
}

// Number is that of the device which a directory of sysfs shows.
func Number(sys string) (dev uint64, err error) {
	text, err := readSys(filepath.Join(sys, "dev"))
	if err != nil {
		return 0, err
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(text, "%d:%d", &major, &minor); err != nil {
		return 0, fmt.Errorf("%s: %q is not a device number: %w", filepath.Base(sys), text, err)
	}
	return unix.Mkdev(major, minor), nil
}

// Mapped reports whether a device is device-mapper's.
func Mapped(dev uint64) bool { return exists(filepath.Join(sysOf(dev), "dm")) }

// Size of a device in bytes.
func Size(dev uint64) (int64, error) { return sectors(filepath.Join(sysOf(dev), "size")) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func sysOf(dev uint64) string {
	return fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(dev), unix.Minor(dev))
}

// Name is what the kernel calls a device: "sda", "dm-0".
func Name(dev uint64) string {
	sys, err := filepath.EvalSymlinks(sysOf(dev))
	if err != nil {
		return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	}
	return filepath.Base(sys)
}

// sectors reads a number of them, as bytes.
func sectors(path string) (int64, error) {
	text, err := readSys(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n * block.SectorSize, err
}

func readSys(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}
