package vault

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/understudy-dr/understudy/pkg/block"
)

// # Section of range hashes
//
// An object of a run holds the range hashes of the coarse granules that its data
// fills without a gap, in stretches by disk and offset, each:
//
//	16  disk
//	 8  offset of the first granule on the disk, bytes
//	 4  granules
//	    16 bytes for each

const (
	stretchHeader = 28
	stretchCount  = 24 // where the number of granules stands in it
)

var errHashes = errors.New("vault: malformed section of range hashes")

// hashWriter encodes the section while the data passes by. Data must come by disk and
// offset.
type hashWriter struct {
	out    []byte
	disk   block.DiskID
	next   int64 // where the last data ended
	fill   []byte
	open   int   // where the open stretch begins in out; -1 before the first
	expect int64 // where the open stretch goes on
}

func newHashWriter() hashWriter { return hashWriter{open: -1} }

func (h *hashWriter) add(disk block.DiskID, off int64, data []byte) {
	if disk != h.disk || off != h.next {
		h.fill = h.fill[:0]
	}
	h.disk, h.next = disk, off+int64(len(data))
	for len(data) > 0 {
		into := off % block.CoarseGranule
		n := min(block.CoarseGranule-into, int64(len(data)))
		if int64(len(h.fill)) == into {
			h.fill = append(h.fill, data[:n]...)
		}
		if into+n == block.CoarseGranule {
			if len(h.fill) == block.CoarseGranule {
				h.emit(disk, off-into)
			}
			h.fill = h.fill[:0]
		}
		data, off = data[n:], off+n
	}
}

// emit appends the hash of a granule that is full.
func (h *hashWriter) emit(disk block.DiskID, off int64) {
	le := binary.LittleEndian
	if h.open < 0 || h.expect != off || block.DiskID(h.out[h.open:]) != disk {
		h.open = len(h.out)
		h.out = append(h.out, disk[:]...)
		h.out = le.AppendUint64(h.out, uint64(off))
		h.out = le.AppendUint32(h.out, 0)
	}
	for _, hash := range block.AppendHashes(nil, h.fill, block.CoarseGranule) {
		h.out = append(h.out, hash[:]...)
	}
	count := h.out[h.open+stretchCount:]
	le.PutUint32(count, le.Uint32(count)+1)
	h.expect = off + block.CoarseGranule
}

// stretch is a row of range hashes.
type stretch struct {
	disk   block.DiskID
	off    int64
	hashes []byte
}

func (s stretch) granules() int64 { return int64(len(s.hashes) / block.HashSize) }

// parseHashes decodes a section. The stretches refer to b.
func parseHashes(b []byte) ([]stretch, error) {
	var out []stretch
	le := binary.LittleEndian
	for len(b) > 0 {
		if len(b) < stretchHeader {
			return nil, fmt.Errorf("%w: %d bytes left over", errHashes, len(b))
		}
		s := stretch{disk: block.DiskID(b), off: int64(le.Uint64(b[16:]))}
		n := int64(le.Uint32(b[stretchCount:])) * block.HashSize
		b = b[stretchHeader:]
		if n == 0 || n > int64(len(b)) || s.off < 0 || s.off%block.CoarseGranule != 0 {
			return nil, fmt.Errorf("%w: %d bytes of hashes from offset %d, %d bytes left", errHashes, n, s.off, len(b))
		}
		s.hashes, b = b[:n], b[n:]
		if len(out) > 0 && compareStretches(out[len(out)-1], s) >= 0 {
			return nil, fmt.Errorf("%w: stretches out of order", errHashes)
		}
		out = append(out, s)
	}
	return out, nil
}

func compareStretches(a, b stretch) int {
	return cmp.Or(bytes.Compare(a.disk[:], b.disk[:]), cmp.Compare(a.off, b.off))
}

// findHash looks a granule up.
func findHash(all []stretch, disk block.DiskID, off int64) (block.Hash16, bool) {
	i, ok := slices.BinarySearchFunc(all, stretch{disk: disk, off: off}, compareStretches)
	if !ok {
		i--
	}
	if i < 0 || all[i].disk != disk {
		return block.Hash16{}, false
	}
	n := (off - all[i].off) / block.CoarseGranule
	if n >= all[i].granules() {
		return block.Hash16{}, false
	}
	return block.Hash16(all[i].hashes[n*block.HashSize:]), true
}
