package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
)

// SameBytes compares two disks or files as a whole. The error says where and in how
// many 4 KiB blocks they differ.
func SameBytes(a, b string) error { return SameBut(a, b, block.NewSet()) }

// SameBut is SameBytes where a replica may hold zeros instead of what a source has in
// these extents.
func SameBut(source, replica string, free *block.Set) error {
	return same(source, replica, func(e block.Extent, got []byte) bool { return free.Covers(e) && block.IsZero(got) })
}

// SameUsed is SameBytes but for these extents, whatever they hold.
func SameUsed(source, replica string, free *block.Set) error {
	return same(source, replica, func(e block.Extent, _ []byte) bool { return free.Covers(e) })
}

// same compares two disks but for sectors that may differ.
func same(source, replica string, may func(where block.Extent, got []byte) bool) error {
	fa, err := os.OpenFile(source, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer fa.Close()
	fb, err := os.OpenFile(replica, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer fb.Close()
	sizeA, errA := fa.Seek(0, io.SeekEnd)
	sizeB, errB := fb.Seek(0, io.SeekEnd)
	if err := errors.Join(errA, errB); err != nil {
		return err
	}
	if sizeA != sizeB {
		return fmt.Errorf("%s has %d bytes, %s has %d", source, sizeA, replica, sizeB)
	}
	bufA, bufB := aligned(1<<20), aligned(1<<20)
	var d difference
	for off := int64(0); off < sizeA; off += int64(len(bufA)) {
		n, errA := readAt(fa, bufA, off)
		m, errB := readAt(fb, bufB, off)
		if err := errors.Join(errA, errB); err != nil || n != m {
			return fmt.Errorf("reading at %d: %d and %d bytes: %w", off, n, m, err)
		}
		d.look(off, bufA[:n], bufB[:n], may)
	}
	if d.blocks > 0 {
		return fmt.Errorf("%s and %s differ in %d blocks, first at byte %d: %s", source, replica, d.blocks, d.first, d.sides)
	}
	return nil
}

// difference is where two disks are not the same.
type difference struct {
	blocks int    // of 4 KiB
	first  int64  // byte
	sides  string // what both hold there
}

// look compares what both disks hold at off.
func (d *difference) look(off int64, a, b []byte, may func(block.Extent, []byte) bool) {
	if bytes.Equal(a, b) {
		return
	}
	for i := 0; i < len(a); i += slotSize {
		for j := i; j < min(i+slotSize, len(a)); j += block.SectorSize {
			x, y := a[j:j+block.SectorSize], b[j:j+block.SectorSize]
			where := block.Extent{Off: off + int64(j), Len: block.SectorSize}
			if bytes.Equal(x, y) || may(where, y) {
				continue
			}
			if d.blocks++; d.blocks == 1 {
				at := mismatch(x, y)
				d.first, d.sides = where.Off+int64(at), fmt.Sprintf("%.32x and %.32x", x[at:], y[at:])
			}
			break
		}
	}
}

func readAt(f *os.File, b []byte, off int64) (int, error) {
	n, err := f.ReadAt(b, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// Requests to the kernel that x/sys/unix has no name for.
const (
	blkDiscard = 0x1277
	blkZeroOut = 0x127f
)

// Scribble does this many things to a disk without a file system: direct writes of many
// sizes at random places, some zeroings and some discards.
func (d *Disk) Scribble(n int) error {
	f, err := os.OpenFile(d.Device, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	buf := aligned(256 << 10)
	for i := range n {
		off := rand.Int64N(size/slotSize) * slotSize
		length := min((1+rand.Int64N(int64(len(buf)/slotSize)))*slotSize, size-off)
		switch rand.IntN(10) {
		case 0:
			err = rangeIoctl(f, blkDiscard, off, length)
		case 1:
			err = rangeIoctl(f, blkZeroOut, off, length)
		default:
			_, err = f.WriteAt(content(buf[:length], d.Name, uint64(i)), off)
		}
		if err != nil {
			return fmt.Errorf("disk %s at %d+%d: %w", d.Name, off, length, err)
		}
	}
	return f.Sync()
}

func rangeIoctl(f *os.File, request uintptr, off, length int64) error {
	r := [2]uint64{uint64(off), uint64(length)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return errno
	}
	return nil
}
