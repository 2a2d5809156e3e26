package overlay

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/understudy-dr/understudy/controlplane/recovery"
)

// The overlay file, all integers little-endian:
//
//	     0   8  magic "USDYOVL\x01"
//	     8   4  version, 1
//	    12   4  block size, bytes
//	    16   8  size of the disk, bytes
//	    24   4  length of the origin
//	    28   n  origin, JSON
//	  4092   4  CRC-32C of the 4092 bytes before
//	  4096      map: one bit a block, lowest bit first; set: the block is in this file
//	dataAt      the blocks, each at dataAt + its offset on the disk; unset ones are holes
//
// dataAt is the first multiple of the block size after the map.
//
// Power loss. A bit reaches the disk only after a sync that followed the write of
// its whole block, and no block is moved or dropped. So the map on disk never points
// at a block that is not there; what is lost is at most what was written after the
// last Sync, as on any disk with a volatile cache.
const (
	headerSize = 4096
	// BlockSize is the unit of copy-on-write in bytes.
	BlockSize = 64 << 10

	version   = 1
	originAt  = 28
	crcAt     = headerSize - 4
	maxOrigin = crcAt - originAt
	maxSize   = 1 << 50 // of a disk, bytes: a map of 2 GiB
)

var magic = []byte("USDYOVL\x01")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Why a file is not taken for an overlay.
var (
	ErrNotOverlay = errors.New("this is not an overlay file")
	ErrVersion    = errors.New("the overlay has a version that this Understudy does not know")
	ErrDamaged    = errors.New("the overlay's header is damaged")
)

// header says which disk at which point the overlay lies over.
type header struct {
	size   int64
	origin recovery.Origin
}

func (h header) encode() ([]byte, error) {
	origin, err := json.Marshal(h.origin)
	if err != nil {
		return nil, err
	}
	if len(origin) > maxOrigin {
		return nil, fmt.Errorf("the description of the disk takes %d bytes, %d are the most", len(origin), maxOrigin)
	}
	b := make([]byte, headerSize)
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[8:], version)
	binary.LittleEndian.PutUint32(b[12:], BlockSize)
	binary.LittleEndian.PutUint64(b[16:], uint64(h.size))
	binary.LittleEndian.PutUint32(b[24:], uint32(len(origin)))
	copy(b[originAt:], origin)
	binary.LittleEndian.PutUint32(b[crcAt:], crc32.Checksum(b[:crcAt], castagnoli))
	return b, nil
}

func decodeHeader(b []byte) (header, error) {
	if len(b) != headerSize || !bytes.HasPrefix(b, magic) {
		return header{}, ErrNotOverlay
	}
	if binary.LittleEndian.Uint32(b[8:]) != version {
		return header{}, ErrVersion
	}
	if crc32.Checksum(b[:crcAt], castagnoli) != binary.LittleEndian.Uint32(b[crcAt:]) {
		return header{}, ErrDamaged
	}
	h := header{size: int64(binary.LittleEndian.Uint64(b[16:]))}
	n := binary.LittleEndian.Uint32(b[24:])
	if h.size <= 0 || h.size > maxSize || n > maxOrigin || binary.LittleEndian.Uint32(b[12:]) != BlockSize {
		return header{}, ErrDamaged
	}
	if err := json.Unmarshal(b[originAt:originAt+n], &h.origin); err != nil {
		return header{}, ErrDamaged
	}
	return h, nil
}

// blocksOf is the number of blocks of a disk of that size; the last may be short.
func blocksOf(size int64) int64 { return (size + BlockSize - 1) / BlockSize }

// mapBytes is the length of the map on disk: whole pages, so that pages are what
// is written.
func mapBytes(size int64) int64 {
	return (blocksOf(size) + 8*pageBytes - 1) / (8 * pageBytes) * pageBytes
}

// dataOffset is where the blocks begin.
func dataOffset(size int64) int64 {
	return (headerSize + mapBytes(size) + BlockSize - 1) / BlockSize * BlockSize
}
