package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// A segment is a file of entries, written once from front to back, little-endian:
//
//	0    4  magic "USSP"
//	4    1  version (1)
//	5    3  zero
//	8    8  segment number, from 1
//	16   8  created, Unix ns
//	24   4  zero
//	28   4  CRC-32C of bytes 0..27
//	32      entries, each at a multiple of 8:
//	          0  4  magic "USSE"
//	          4  1  kind: 1 frame, 2 positions, 3 padding, 4 end
//	          5  3  zero
//	          8  8  segment number
//	          16 4  length of the body, bytes
//	          20 4  CRC-32C of the body of positions; zero for the others: a frame carries
//	                its own
//	          24 4  zero
//	          28 4  CRC-32C of bytes 0..27
//	          32    body, filled up to a multiple of 8
//
// Files are used again: overwriting blocks that were written before is synced several
// times faster than allocated ones, and does not wait for the file system's journal.
// Behind the last entry therefore lies anything, also entries of the file's life
// before, which have another number. The end entry is written when no more entries
// follow; a segment without one ends at its last good entry.
//
// A group of frames is padded to pages, so that the next one overwrites whole pages
// and reads none.
//
// The first entry of a segment is the positions of all machines as of its creation, so
// that the newest segment alone says how far every machine had come, whatever older
// segments are gone.
//
// A position's body is 96 bytes: machine 16; log epoch, spooled, closing time of
// spooled, committed epoch, committed, closing time of committed; base epoch, spooled,
// committed epoch, committed: 8 each.
const (
	fileMagic  = "USSP"
	entryMagic = "USSE"
	version    = 1

	fileHead     = 32
	entryHead    = 32
	positionSize = 96

	kindFrame     = 1
	kindPositions = 2
	kindPadding   = 3
	kindEnd       = 4

	pageSize = 4096

	// maxPositions bounds a positions body: more machines than one relay serves.
	maxPositions = 1 << 16
)

// The verdicts on a segment's bytes.
var (
	ErrNotSegment = errors.New("spool: not a spool segment")
	ErrVersion    = errors.New("spool: segment of another version")
	ErrDamaged    = errors.New("spool: damaged")
	errNoEntry    = errors.New("spool: no entry here")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// padded is n rounded up to an entry's alignment.
func padded(n int) int64 { return (int64(n) + 7) &^ 7 }

// entrySize is the room an entry with n bytes of body takes.
func entrySize(n int) int64 { return entryHead + padded(n) }

func appendFileHead(dst []byte, id uint64, created time.Time) []byte {
	start := len(dst)
	dst = append(dst, fileMagic...)
	dst = append(dst, version, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, id)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(created.UnixNano()))
	dst = append(dst, 0, 0, 0, 0)
	return binary.LittleEndian.AppendUint32(dst, checksum(dst[start:]))
}

func parseFileHead(b []byte) (id uint64, err error) {
	switch {
	case len(b) < fileHead || string(b[:4]) != fileMagic:
		return 0, ErrNotSegment
	case b[4] != version:
		return 0, fmt.Errorf("%w: %d, this build reads %d", ErrVersion, b[4], version)
	case checksum(b[:28]) != binary.LittleEndian.Uint32(b[28:]):
		return 0, fmt.Errorf("%w: checksum of the file's header", ErrDamaged)
	}
	return binary.LittleEndian.Uint64(b[8:]), nil
}

type entryHeader struct {
	kind byte
	size int // of the body
	sum  uint32
}

func appendEntryHead(dst []byte, segment uint64, h entryHeader) []byte {
	start := len(dst)
	dst = append(dst, entryMagic...)
	dst = append(dst, h.kind, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, segment)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(h.size))
	dst = binary.LittleEndian.AppendUint32(dst, h.sum)
	dst = append(dst, 0, 0, 0, 0)
	return binary.LittleEndian.AppendUint32(dst, checksum(dst[start:]))
}

// parseEntryHead returns errNoEntry for bytes that were not written as an entry of this
// segment.
func parseEntryHead(b []byte, segment uint64) (entryHeader, error) {
	if string(b[:4]) != entryMagic || checksum(b[:28]) != binary.LittleEndian.Uint32(b[28:]) || binary.LittleEndian.Uint64(b[8:]) != segment {
		return entryHeader{}, errNoEntry
	}
	return entryHeader{kind: b[4], size: int(binary.LittleEndian.Uint32(b[16:])), sum: binary.LittleEndian.Uint32(b[20:])}, nil
}

// appendPadding appends what brings the length of dst, which will lie at off, to a
// whole page: an entry with a body of zeros.
func appendPadding(dst []byte, off int64, segment uint64) []byte {
	rest := int(-(off + int64(len(dst))) & (pageSize - 1))
	if rest == 0 {
		return dst
	}
	if rest < entryHead {
		rest += pageSize
	}
	dst = appendEntryHead(dst, segment, entryHeader{kind: kindPadding, size: rest - entryHead})
	return append(dst, make([]byte, rest-entryHead)...)
}

// LogPosition is a place in a machine's log and the time it stands for.
type LogPosition struct {
	block.Position
	Closed time.Time
}

// BasePosition counts the base frames of an epoch.
type BasePosition struct {
	Epoch block.Epoch
	N     uint64
}

// Before orders base positions: by epoch, then by number.
func (p BasePosition) Before(q BasePosition) bool {
	return p.Epoch < q.Epoch || p.Epoch == q.Epoch && p.N < q.N
}

// Positions is how far a machine had come: on stable storage here, and in the vault.
type Positions struct {
	Machine                    block.MachineID
	Spooled, Committed         LogPosition
	BaseSpooled, BaseCommitted BasePosition
}

func appendPositions(dst []byte, all []Positions) []byte {
	for _, p := range all {
		dst = append(dst, p.Machine[:]...)
		for _, w := range []uint64{
			uint64(p.Spooled.Epoch), uint64(p.Spooled.Seq), stamp(p.Spooled.Closed),
			uint64(p.Committed.Epoch), uint64(p.Committed.Seq), stamp(p.Committed.Closed),
			uint64(p.BaseSpooled.Epoch), p.BaseSpooled.N,
			uint64(p.BaseCommitted.Epoch), p.BaseCommitted.N,
		} {
			dst = binary.LittleEndian.AppendUint64(dst, w)
		}
	}
	return dst
}

func parsePositions(b []byte) ([]Positions, error) {
	if len(b)%positionSize != 0 {
		return nil, fmt.Errorf("%w: positions of %d bytes", ErrDamaged, len(b))
	}
	all := make([]Positions, 0, len(b)/positionSize)
	for ; len(b) > 0; b = b[positionSize:] {
		w := func(i int) uint64 { return binary.LittleEndian.Uint64(b[16+8*i:]) }
		at := func(i int) LogPosition {
			return LogPosition{block.Position{Epoch: block.Epoch(w(i)), Seq: block.Seq(w(i + 1))}, unstamp(w(i + 2))}
		}
		all = append(all, Positions{
			Machine: block.MachineID(b[:16]), Spooled: at(0), Committed: at(3),
			BaseSpooled:   BasePosition{block.Epoch(w(6)), w(7)},
			BaseCommitted: BasePosition{block.Epoch(w(8)), w(9)},
		})
	}
	return all, nil
}

// stamp and unstamp keep the zero time zero.
func stamp(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}

func unstamp(n uint64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(n))
}
