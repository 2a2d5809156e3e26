package resync

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/mounts"
	"github.com/understudy-dr/understudy/pkg/block"
)

// The kernel's interface for asking a file system who owns which blocks
// (linux/fsmap.h). It is the same on every architecture.
const (
	fsIocGetfsmap      = 0xC0C0583B // _IOWR('X', 59, struct fsmap_head)
	fsmapRecords       = 1024
	fsmapDevicesAreDev = 0x1  // fmh_oflags: fmr_device is a device number
	fsmapSpecialOwner  = 0x10 // fmr_flags: the owner is not an inode
	fsmapLast          = 0x20 // fmr_flags: no more records
	fsmapOwnerFree     = 1
)

type fsmapRecord struct {
	device, flags                   uint32
	physical, owner, offset, length uint64
	reserved                        [3]uint64
}

type fsmapQuery struct {
	iflags, oflags, count, entries uint32
	reserved                       [6]uint64
	low, high                      fsmapRecord
	records                        [fsmapRecords]fsmapRecord
}

// fsmap lists what the file system of fd, which lies on p, calls free, in offsets of
// p's disk. Only what is plainly said to be free counts; whatever seems odd is an error.
func fsmap(ctx context.Context, fd int, p part) (*block.Set, error) {
	free := block.NewSet()
	q := &fsmapQuery{count: fsmapRecords}
	q.high = fsmapRecord{device: ^uint32(0), flags: ^uint32(0), physical: ^uint64(0), owner: ^uint64(0), offset: ^uint64(0)}
	for ctx.Err() == nil {
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fsIocGetfsmap, uintptr(unsafe.Pointer(q))); e != 0 {
			return nil, fmt.Errorf("GETFSMAP: %w", e)
		}
		if q.oflags&fsmapDevicesAreDev == 0 {
			return nil, errors.New("GETFSMAP: devices are not named")
		}
		if q.entries == 0 {
			return free, nil
		}
		last := q.records[q.entries-1]
		for _, r := range q.records[:q.entries] {
			if err := r.addFree(free, p); err != nil {
				return nil, err
			}
		}
		if last.flags&fsmapLast != 0 {
			return free, nil
		}
		q.low = last // the kernel goes on behind it
	}
	return nil, ctx.Err()
}

func (r fsmapRecord) addFree(free *block.Set, p part) error {
	if mounts.Number(uint64(r.device)) != p.dev {
		return errors.New("GETFSMAP: it lies on several devices")
	}
	if r.flags&fsmapSpecialOwner == 0 || r.owner != fsmapOwnerFree {
		return nil
	}
	e := block.Extent{Off: p.Off + int64(r.physical), Len: int64(r.length)}
	if e.Empty() || !p.Contains(e) {
		return fmt.Errorf("GETFSMAP: free extent %v lies outside its partition %v", e, p.Extent)
	}
	free.Add(e)
	return nil
}
