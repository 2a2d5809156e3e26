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
)

// SameBytes compares two disks or files as a whole. The error says where and in how
// many 4 KiB blocks they differ.
func SameBytes(a, b string) error {
	fa, err := os.OpenFile(a, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer fa.Close()
	fb, err := os.OpenFile(b, os.O_RDONLY|unix.O_DIRECT, 0)
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
		return fmt.Errorf("%s has %d bytes, %s has %d", a, sizeA, b, sizeB)
	}
	bufA, bufB := aligned(1<<20), aligned(1<<20)
	first, blocks := int64(-1), 0
	for off := int64(0); off < sizeA; off += int64(len(bufA)) {
		n, errA := readAt(fa, bufA, off)
		m, errB := readAt(fb, bufB, off)
		if err := errors.Join(errA, errB); err != nil || n != m {
			return fmt.Errorf("reading at %d: %d and %d bytes: %w", off, n, m, err)
		}
		if bytes.Equal(bufA[:n], bufB[:n]) {
			continue
		}
		for i := 0; i < n; i += slotSize {
			if end := min(i+slotSize, n); !bytes.Equal(bufA[i:end], bufB[i:end]) {
				blocks++
				if first < 0 {
					first = off + int64(i+mismatch(bufA[i:end], bufB[i:end]))
				}
			}
		}
	}
	if blocks > 0 {
		return fmt.Errorf("%s and %s differ in %d blocks, first at byte %d", a, b, blocks, first)
	}
	return nil
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
