package lab

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Free is what the disk's file system, ext4 or xfs, and not mounted, calls free, by its
// own tool. A first copy leaves out what is free: there, and only there, a replica may hold
// nothing where the disk has the remains of a file that was removed before protection.
func (d *Disk) Free(ctx context.Context) (*block.Set, error) {
	switch d.FS {
	case Ext4:
		out, err := run(ctx, "dumpe2fs", d.Device)
		if err != nil {
			return nil, err
		}
		return freeExt4(out)
	case XFS:
		out, err := run(ctx, "xfs_db", "-r", "-c", "sb 0", "-c", "p blocksize agblocks", "-c", "freesp -d", d.Device)
		if err != nil {
			return nil, err
		}
		return freeXFS(out)
	}
	return block.NewSet(), nil
}

var (
	ext4Size = regexp.MustCompile(`(?m)^Block size: +(\d+)$`)
	ext4Free = regexp.MustCompile(`(?m)^  Free blocks: (.+)$`) // with two blanks: a group's
	xfsSizes = regexp.MustCompile(`blocksize = (\d+)\s+agblocks = (\d+)`)
	xfsFree  = regexp.MustCompile(`(?m)^ +(\d+) +(\d+) +(\d+)$`)
)

func freeExt4(dump string) (*block.Set, error) {
	m := ext4Size.FindStringSubmatch(dump)
	if m == nil {
		return nil, fmt.Errorf("dumpe2fs names no block size: %.200s", dump)
	}
	size, free := number(m[1]), block.NewSet()
	for _, group := range ext4Free.FindAllStringSubmatch(dump, -1) {
		for stretch := range strings.SplitSeq(group[1], ", ") {
			first, last, more := strings.Cut(stretch, "-")
			if !more {
				last = first
			}
			free.Add(block.Extent{Off: number(first) * size, Len: (number(last) - number(first) + 1) * size})
		}
	}
	return free, nil
}

func freeXFS(dump string) (*block.Set, error) {
	m := xfsSizes.FindStringSubmatch(dump)
	if m == nil {
		return nil, fmt.Errorf("xfs_db names no sizes: %.200s", dump)
	}
	size, group, free := number(m[1]), number(m[2]), block.NewSet()
	for _, at := range xfsFree.FindAllStringSubmatch(dump, -1) {
		free.Add(block.Extent{Off: (number(at[1])*group + number(at[2])) * size, Len: number(at[3]) * size})
	}
	return free, nil
}

// number is one that a pattern of digits has found.
func number(digits string) int64 {
	n, _ := strconv.ParseInt(digits, 10, 64)
	return n
}
