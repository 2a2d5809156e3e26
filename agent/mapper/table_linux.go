package mapper

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// control is device-mapper's own device.
const control = "/dev/mapper/control"

const (
	tableStatus = 0xc138fd0c // DM_TABLE_STATUS: _IOWR(0xfd, 12, struct dm_ioctl)

	statusTable = 1 << 4  // DM_STATUS_TABLE_FLAG: the table, not the state
	bufferFull  = 1 << 8  // DM_BUFFER_FULL_FLAG: the answer has no room
	noFlush     = 1 << 11 // DM_NOFLUSH_FLAG: write nothing for it
	secureData  = 1 << 15 // DM_SECURE_DATA_FLAG: the kernel wipes its own copy

	// A table of a few targets fits into the first, one of an LVM that was extended for
	// years into the last.
	firstAnswer = 16 << 10
	lastAnswer  = 16 << 20
)

// Table is what the device of this number is made of, in its order.
func Table(dev uint64) ([]Target, error) {
	f, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("device-mapper: %w", err)
	}
	defer f.Close()
	for size := firstAnswer; size <= lastAnswer; size *= 8 {
		targets, full, err := ask(f, dev, make([]byte, size))
		if err != nil || !full {
			return targets, err
		}
	}
	return nil, fmt.Errorf("device-mapper: the table of %d:%d has more than %d bytes", unix.Major(dev), unix.Minor(dev), lastAnswer)
}

// ask asks once. Of the answer nothing is left: it may hold a key.
func ask(f *os.File, dev uint64, b []byte) (targets []Target, full bool, err error) {
	defer clear(b)
	le := binary.NativeEndian
	le.PutUint32(b[atVersion:], 4) // 4.0.0: what every kernel has
	le.PutUint32(b[atDataSize:], uint32(len(b)))
	le.PutUint32(b[atDataStart:], headSize)
	le.PutUint32(b[atFlags:], statusTable|noFlush|secureData)
	le.PutUint64(b[atDev:], numbered(dev))
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), tableStatus, uintptr(unsafe.Pointer(unsafe.SliceData(b)))); errno != 0 {
		return nil, false, fmt.Errorf("device-mapper: the table of %d:%d: %w", unix.Major(dev), unix.Minor(dev), errno)
	}
	if u32(b, atFlags)&bufferFull != 0 {
		return nil, true, nil
	}
	targets, err = parse(b)
	return targets, false, err
}

// numbered is a device's number as the kernel's interfaces have it. glibc's, which stat
// and unix.Mkdev have, is the same for all that a kernel gives out.
func numbered(dev uint64) uint64 {
	major, minor := uint64(unix.Major(dev)), uint64(unix.Minor(dev))
	return minor&0xff | major<<8 | minor&^0xff<<12
}
