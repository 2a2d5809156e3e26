// Package vhd is the fixed VHD format: the disk's bytes, then a footer of 512
// bytes. It is pure: it reads and writes no file.
//
// The footer, big-endian, offsets in bytes:
//
//	 0  8  cookie "conectix"
//	 8  4  features, always 2
//	12  4  format version 1.0: 0x00010000
//	16  8  offset of the next structure: all ones, a fixed disk has none
//	24  4  time stamp, seconds since 2000-01-01 UTC
//	28  4  creator application
//	32  4  creator version
//	36  4  creator host system
//	40  8  original size, bytes
//	48  8  current size, bytes
//	56  4  geometry: cylinders (2), heads (1), sectors per track (1)
//	60  4  disk type: 2, fixed
//	64  4  checksum: complement of the sum of all footer bytes, this field as zero
//	68 16  unique id
//	84  1  saved state
//	85     zeros
package vhd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"time"
)

const (
	// FooterSize is the size of the footer in bytes.
	FooterSize = 512
	// SizeUnit is what the size of a disk must be a multiple of for Azure, in bytes.
	SizeUnit = 1 << 20

	sectorSize     = 512
	featureAlways  = 2
	formatVersion  = 0x00010000
	typeFixed      = 2
	checksumOffset = 64
)

var cookie = []byte("conectix")

// Readers decide by the creator whether a disk's size is the size field or the
// product of the geometry, which is rounded down. This is Windows' own mark, for
// which everybody believes the size field.
var (
	creatorApplication = []byte("win ")
	creatorHost        = []byte("Wi2k")
)

var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// DiskSize is the size of the VHD's disk for data of that size: rounded up to a
// whole SizeUnit.
func DiskSize(size int64) int64 {
	return (size + SizeUnit - 1) / SizeUnit * SizeUnit
}

// Footer is what a footer says about its disk.
type Footer struct {
	Size    int64 // of the disk, without the footer, in bytes
	Created time.Time
	ID      [16]byte
}

// Encode writes the footer.
func (f Footer) Encode() [FooterSize]byte {
	var b [FooterSize]byte
	copy(b[0:], cookie)
	binary.BigEndian.PutUint32(b[8:], featureAlways)
	binary.BigEndian.PutUint32(b[12:], formatVersion)
	binary.BigEndian.PutUint64(b[16:], ^uint64(0))
	binary.BigEndian.PutUint32(b[24:], stamp(f.Created))
	copy(b[28:], creatorApplication)
	binary.BigEndian.PutUint32(b[32:], 0x000a0000)
	copy(b[36:], creatorHost)
	binary.BigEndian.PutUint64(b[40:], uint64(f.Size))
	binary.BigEndian.PutUint64(b[48:], uint64(f.Size))
	cylinders, heads, sectors := geometry(f.Size / sectorSize)
	binary.BigEndian.PutUint16(b[56:], uint16(cylinders))
	b[58], b[59] = byte(heads), byte(sectors)
	binary.BigEndian.PutUint32(b[60:], typeFixed)
	copy(b[68:], f.ID[:])
	binary.BigEndian.PutUint32(b[checksumOffset:], checksum(b[:]))
	return b
}

// Why a block is not a footer of a fixed disk.
var (
	ErrNotFooter = errors.New("vhd: this is not a footer of a fixed disk")
	ErrChecksum  = errors.New("vhd: the footer's checksum is wrong")
)

// Decode reads a footer that Encode wrote.
func Decode(b []byte) (Footer, error) {
	if len(b) != FooterSize || !bytes.HasPrefix(b, cookie) || binary.BigEndian.Uint32(b[60:]) != typeFixed {
		return Footer{}, ErrNotFooter
	}
	if checksum(b) != binary.BigEndian.Uint32(b[checksumOffset:]) {
		return Footer{}, ErrChecksum
	}
	if int64(binary.BigEndian.Uint64(b[48:])) < 0 {
		return Footer{}, ErrNotFooter
	}
	return Footer{
		Size:    int64(binary.BigEndian.Uint64(b[48:])),
		Created: epoch.Add(time.Duration(binary.BigEndian.Uint32(b[24:])) * time.Second),
		ID:      [16]byte(b[68:84]),
	}, nil
}

func stamp(t time.Time) uint32 {
	s := int64(t.Sub(epoch) / time.Second)
	return uint32(min(max(s, 0), 1<<32-1))
}

func checksum(b []byte) uint32 {
	var sum uint32
	for i, c := range b {
		if i < checksumOffset || i >= checksumOffset+4 {
			sum += uint32(c)
		}
	}
	return ^sum
}

// geometry finds cylinders, heads and sectors per track by the format's rule: as
// few heads as the cylinders allow, never more than the sectors there are.
func geometry(total int64) (cylinders, heads, sectors int64) {
	const most = 65535 * 16 * 255
	total = min(total, most)
	if total >= 65535*16*63 {
		sectors, heads = 255, 16
		return total / sectors / heads, heads, sectors
	}
	sectors = 17
	tracks := total / sectors
	heads = max((tracks+1023)/1024, 4)
	if tracks >= heads*1024 || heads > 16 {
		sectors, heads = 31, 16
		tracks = total / sectors
	}
	if tracks >= heads*1024 {
		sectors, heads = 63, 16
		tracks = total / sectors
	}
	return tracks / heads, heads, sectors
}
