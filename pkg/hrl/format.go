// Package hrl is the format of a journal file and the ring that lives in one: a
// preallocated file that holds frames in the order in which they were appended,
// each with the capture position after it, and a small state beside them.
//
// README.md beside this file states what is assumed of a crash and how a file is
// recovered.
package hrl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// The file. Integers are little-endian; every part begins on a multiple of
// BlockSize, so that a disk can be written past the page cache.
//
//	0        file header           BlockSize   written once, never changed
//	4096     anchor, slot 0        BlockSize   where the retained entries begin;
//	8192     anchor, slot 1        BlockSize   the valid one with the higher serial counts
//	12288    state, slot 0         StateBytes  what the owner wants to survive;
//	+        state, slot 1         StateBytes  the valid one with the higher serial counts
//	+        ring                  RingBytes   entries
//
// A place in the ring is a Pos, which counts bytes from the file's creation and
// never goes round: it lies at Pos mod RingBytes, in lap Pos / RingBytes. An entry
// never wraps: one that does not fit before the ring's end begins the next lap.
const (
	BlockSize  = 4096
	HeaderSize = 64 // of an encoded file header
	AnchorSize = 80 // of an encoded anchor
	StateSize  = 32 // of an encoded state header; the state follows it
	EntrySize  = 64 // of an encoded entry header; the frame follows it

	// Version is written; OldestVersion to Version are read.
	Version       = 2
	OldestVersion = 2
)

// Limits. A header that claims more is refused before anything is allocated.
const (
	MaxFrame = 32 << 20 // bytes of one frame
	MaxState = 16 << 20 // bytes of one state slot, its header included
	MinRing  = 2 * BlockSize
	MaxRing  = 1 << 44
	MaxPos   = 1 << 62 // of a position; sums of it and a ring's size do not overflow
	MinAlign = EntrySize
	MaxAlign = BlockSize
)

// The magics tell a part's kind; as none is zero, blank space is never a part. The
// file's also tells a transfer that rewrote line ends or cut the eighth bit.
const (
	fileMagic   = "\x8bHRL\r\n\x1a\n"
	anchorMagic = "HRLa"
	stateMagic  = "HRLs"
	entryMagic  = "HRLe"
)

// Verdicts on a part, in the order in which they are reached.
var (
	ErrBlank    = errors.New("nothing was ever written here")
	ErrNotHRL   = errors.New("not a part of a journal file")
	ErrOlder    = errors.New("journal file of an older version")
	ErrNewer    = errors.New("journal file of a newer version")
	ErrChecksum = errors.New("damaged: the header's checksum does not match")
	ErrLimit    = errors.New("damaged: a field is outside its limits")
	ErrPayload  = errors.New("damaged: the content's checksum does not match")
	ErrStale    = errors.New("left over from an earlier lap or an earlier run")
	ErrShort    = errors.New("the file ends too early")
)

// VersionError says which version was found where only others can be read. It is
// ErrOlder or ErrNewer.
type VersionError struct {
	Found int
}

func (e *VersionError) Error() string {
	if e.Found > Version {
		return fmt.Sprintf("journal file of version %d, newer than the %d this agent reads: install the agent that wrote it or a later one", e.Found, Version)
	}
	return fmt.Sprintf("journal file of version %d, older than the %d this agent reads: let the agent that wrote it send what it holds, then remove the file", e.Found, OldestVersion)
}

func (e *VersionError) Unwrap() error {
	if e.Found > Version {
		return ErrNewer
	}
	return ErrOlder
}

// Kind tells how much a file survives.
type Kind uint16

// Kinds. Zero is invalid.
const (
	Memory Kind = 1 // in a memory file system: survives the process, not a reboot
	Disk   Kind = 2 // on a disk: written past the page cache, survives a clean reboot
)

func (k Kind) String() string {
	switch k {
	case Memory:
		return "memory"
	case Disk:
		return "disk"
	}
	return fmt.Sprintf("kind %d", uint16(k))
}

// Pos is a place in the ring: bytes since the file's creation.
type Pos uint64

// Header is the file header.
//
//	0   magic               8 bytes
//	8   version u16 | kind u16 | checksum u32
//	16  id                  16 bytes, random: seeds every other checksum, so that
//	                        no part of another file is ever taken for ours
//	32  ring bytes          u64
//	40  state bytes u32     | align u32
//	48  created             i64, unix ns
//	56  zero                u64
type Header struct {
	Kind       Kind
	ID         [16]byte
	RingBytes  int64 // a multiple of BlockSize
	StateBytes int64 // of each slot, header included; a multiple of BlockSize
	Align      int64 // entries begin on multiples of it; a power of two
	Created    time.Time
}

// Anchor says where recovery begins.
//
//	0   magic u32 | checksum u32
//	8   serial      u64, from 1; the slot is serial mod 2
//	16  generation  u64, from 1; one more at every open
//	24  floor       u64, generation of the entry before head: what lies at head is
//	                older than that only if it is left over
//	32  head        u64, position of the oldest retained entry, or of the next one
//	40  released    u64, the newest sequence number no longer needed
//	48  ring pos    u64, capture position after the frame that ends there
//	56  boot        16 bytes, the machine's boot in which this was written
//	72  closed      i64, closing time (unix ns) of the frame that ends at released, by
//	                which the owner knows it again; 0 if that is not known
type Anchor struct {
	Serial     uint64
	Generation uint64
	Floor      uint64
	Head       Pos
	Released   block.Seq
	RingPos    uint64
	Boot       [16]byte
	Closed     int64
}

// StateHeader precedes a state in its slot.
//
//	0   magic u32 | checksum u32
//	8   serial      u64, from 1; the slot is serial mod 2
//	16  generation  u64, in which it was written
//	24  length u32  | content checksum u32
type StateHeader struct {
	Serial     uint64
	Generation uint64
	Len        int
	Sum        uint32
}

// Entry is the header of one entry: a frame and the capture position after it.
//
//	0   magic u32 | checksum u32
//	8   generation  u64, in which it was written; never falls along the chain
//	16  pos         u64, its own position: an entry of an earlier lap has another
//	24  prev        u64, position of the entry before it
//	32  first       u64, first sequence number in the frame
//	40  last        u64, last
//	48  ring pos    u64, capture position after the frame
//	56  length u32  | content checksum u32
type Entry struct {
	Generation  uint64
	Pos, Prev   Pos
	First, Last block.Seq
	RingPos     uint64
	Len         int // bytes of the frame
	Sum         uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// seed begins every checksum but the file header's own.
func (h Header) seed() uint32 { return checksum(h.ID[:]) }

// sum is the checksum of content that belongs to this file.
func (h Header) sum(content []byte) uint32 { return crc32.Update(h.seed(), castagnoli, content) }

func (h Header) stateOffset(slot uint64) int64 { return 3*BlockSize + int64(slot%2)*h.StateBytes }
func (h Header) anchorOffset(slot uint64) int64 {
	return BlockSize + int64(slot%2)*BlockSize
}
func (h Header) ringOffset() int64 { return h.stateOffset(0) + 2*h.StateBytes }

// FileBytes is the size of the whole file.
func (h Header) FileBytes() int64 { return h.ringOffset() + h.RingBytes }

// offset is where p lies in the file.
func (h Header) offset(p Pos) int64 { return h.ringOffset() + int64(uint64(p)%uint64(h.RingBytes)) }

// span is what an entry with a frame of n bytes takes up.
func (h Header) span(n int) int64 { return roundUp(EntrySize+int64(n), h.Align) }

// nextLap is the first position at or after p that lies at the ring's beginning.
func (h Header) nextLap(p Pos) Pos {
	size := uint64(h.RingBytes)
	return Pos((uint64(p) + size - 1) / size * size)
}

// fits reports whether an entry of span n at p ends before the ring does.
func (h Header) fits(p Pos, n int64) bool {
	return int64(uint64(p)%uint64(h.RingBytes))+n <= h.RingBytes
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) &^ (unit - 1) }

// Put encodes the header into the first HeaderSize bytes of b.
func (h Header) Put(b []byte) {
	b = b[:HeaderSize]
	clear(b)
	copy(b, fileMagic)
	le.PutUint16(b[8:], Version)
	le.PutUint16(b[10:], uint16(h.Kind))
	copy(b[16:], h.ID[:])
	le.PutUint64(b[32:], uint64(h.RingBytes))
	le.PutUint32(b[40:], uint32(h.StateBytes))
	le.PutUint32(b[44:], uint32(h.Align))
	le.PutUint64(b[48:], uint64(h.Created.UnixNano()))
	le.PutUint32(b[12:], checksum(b))
}

// ParseHeader decodes a file header.
func ParseHeader(b []byte) (Header, error) {
	if err := identify(b, HeaderSize, fileMagic); err != nil {
		return Header{}, err
	}
	if v := int(le.Uint16(b[8:])); v < OldestVersion || v > Version {
		return Header{}, &VersionError{Found: v}
	}
	if !sealed(0, b[:HeaderSize], 12) {
		return Header{}, ErrChecksum
	}
	if le.Uint64(b[56:]) != 0 {
		return Header{}, fmt.Errorf("%w: the reserved field is in use", ErrLimit)
	}
	h := Header{
		Kind:       Kind(le.Uint16(b[10:])),
		ID:         [16]byte(b[16:32]),
		RingBytes:  int64(le.Uint64(b[32:])),
		StateBytes: int64(le.Uint32(b[40:])),
		Align:      int64(le.Uint32(b[44:])),
		Created:    time.Unix(0, int64(le.Uint64(b[48:]))).UTC(),
	}
	return h, h.check()
}

// check holds the header against the limits.
func (h Header) check() error {
	switch {
	case h.Kind != Memory && h.Kind != Disk:
		return fmt.Errorf("%w: %v", ErrLimit, h.Kind)
	case h.RingBytes < MinRing || h.RingBytes > MaxRing || h.RingBytes%BlockSize != 0:
		return fmt.Errorf("%w: a ring of %d bytes", ErrLimit, h.RingBytes)
	case h.StateBytes < BlockSize || h.StateBytes > MaxState || h.StateBytes%BlockSize != 0:
		return fmt.Errorf("%w: a state of %d bytes", ErrLimit, h.StateBytes)
	case h.Align < MinAlign || h.Align > MaxAlign || h.Align&(h.Align-1) != 0:
		return fmt.Errorf("%w: an alignment of %d bytes", ErrLimit, h.Align)
	}
	return nil
}

var le = binary.LittleEndian

// identify tells blank space and foreign bytes from a part.
func identify(b []byte, size int, magic string) error {
	if len(b) < size {
		return ErrShort
	}
	if string(b[:len(magic)]) == magic {
		return nil
	}
	for _, c := range b[:size] {
		if c != 0 {
			return ErrNotHRL
		}
	}
	return ErrBlank
}

// sealed reports whether the checksum at b[at:] is that of b with the checksum
// itself taken as zero.
func sealed(seed uint32, b []byte, at int) bool {
	return le.Uint32(b[at:]) == sumAround(seed, b, at)
}

func sumAround(seed uint32, b []byte, at int) uint32 {
	var none [4]byte
	s := crc32.Update(seed, castagnoli, b[:at])
	s = crc32.Update(s, castagnoli, none[:])
	return crc32.Update(s, castagnoli, b[at+4:])
}
