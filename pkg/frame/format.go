// Package frame is the unit of journal, wire, relay, vault, acknowledgement and
// recovery: a batch of consecutive records of one machine's log. The same bytes
// travel from the agent's journal to the vault; everybody on the way checks them and
// nobody decompresses them before recovery. A frame is applied whole or not at all.
//
// # Layout, version 1, little-endian
//
//	0    4  magic "USFR"
//	4    1  version (1)
//	5    1  kind: 1 log, 2 base, 3 mark
//	6    1  codec of the payload: 1 raw, 2 LZ4 block
//	7    1  zero
//	8   16  machine
//	24   8  epoch, from 1
//	32   8  first sequence number
//	40   8  last sequence number
//	48   8  opened: the earliest record's time, Unix ns
//	56   8  closed: the machine is known up to here, Unix ns
//	64   2  disks in the index
//	66   2  zero
//	68   4  extents in the index
//	72   4  stored payload length, bytes
//	76   4  raw payload length, bytes
//	80   4  CRC-32C of the index
//	84   4  CRC-32C of the stored payload
//	88  36  zero
//	124  4  CRC-32C of bytes 0..123
//	128     index: disks × 16-byte disk id, then extents × 24 bytes:
//	          0  2  disk's place in the index
//	          2  1  operation: 1 write, 2 discard, 3 zero
//	          3  1  zero
//	          4  4  where its data begins in the raw payload (writes only)
//	          8  8  offset on the disk, bytes
//	         16  8  length, bytes
//	...     payload
//
// Extents stand in the order in which they are applied: a later one overwrites an
// earlier one. A log frame without extents is a tick: the machine was watched up to
// its closing time and wrote nothing.
//
// # Numbers
//
// Log and mark frames share one numbering per machine: First is the Last before plus
// one, over the machine's whole life. Base frames are numbered 1, 2, 3… within their
// epoch with First == Last.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Limits. A reader refuses what exceeds them before it allocates anything.
const (
	HeaderSize = 128
	MaxDisks   = 256
	MaxExtents = 1 << 16
	MaxPayload = 16 << 20 // raw bytes; the stored form is never larger than the raw one
	MaxSize    = HeaderSize + MaxDisks*diskEntry + MaxExtents*extentEntry + MaxPayload

	diskEntry   = 16
	extentEntry = 24
	version     = 1
	magic       = "USFR"
)

// The verdicts on a frame's bytes, in the order in which they are tried.
var (
	ErrTruncated       = errors.New("frame: truncated")
	ErrNotFrame        = errors.New("frame: not a frame")
	ErrVersion         = errors.New("frame: unknown version")
	ErrHeaderChecksum  = errors.New("frame: header checksum does not match")
	ErrLimit           = errors.New("frame: exceeds a limit")
	ErrIndexChecksum   = errors.New("frame: index checksum does not match")
	ErrPayloadChecksum = errors.New("frame: payload checksum does not match")
	ErrMalformed       = errors.New("frame: malformed")
)

// Kind says what a frame carries.
type Kind uint8

// The kinds of frame.
const (
	KindLog  Kind = 1 // captured records, or none (a tick)
	KindBase Kind = 2 // blocks read by an initial copy or a resync
	KindMark Kind = 3 // a Mark
)

// Codec says how the payload is stored.
type Codec uint8

// The payload codecs.
const (
	CodecRaw Codec = 1
	CodecLZ4 Codec = 2
)

// Op is what an extent does to its bytes.
type Op uint8

// The operations. A discarded stretch reads back as zeros from a replica.
const (
	OpWrite   Op = 1
	OpDiscard Op = 2
	OpZero    Op = 3
)

func (k Kind) String() string { return name(k, "log", "base", "mark") }
func (c Codec) String() string {
	return name(c, "raw", "lz4")
}
func (o Op) String() string { return name(o, "write", "discard", "zero") }

func name[T ~uint8](v T, names ...string) string {
	if v == 0 || int(v) > len(names) {
		return fmt.Sprintf("unknown(%d)", uint8(v))
	}
	return names[v-1]
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// Header is the fixed part of a frame.
type Header struct {
	Kind    Kind
	Codec   Codec
	Machine block.MachineID
	Epoch   block.Epoch
	// First and Last bound the frame's sequence numbers, both included.
	First, Last block.Seq
	// Opened is the time of the earliest record; Closed is the moment up to which
	// the machine is known, the time a recovery point at this frame stands for.
	Opened, Closed time.Time
	Disks, Extents int
	// Stored and Raw are the payload's lengths in bytes as it lies in the frame and
	// as it was captured.
	Stored, Raw int

	indexSum, payloadSum uint32
}

// Position is the cut that lies directly behind this frame. It has no meaning for a
// base frame.
func (h Header) Position() block.Position { return block.Position{Epoch: h.Epoch, Seq: h.Last} }

// Tick reports whether the frame only says that the machine was watched.
func (h Header) Tick() bool { return h.Kind == KindLog && h.Extents == 0 }

func (h Header) indexLen() int { return h.Disks*diskEntry + h.Extents*extentEntry }

// Size is the length of the whole encoded frame in bytes.
func (h Header) Size() int { return HeaderSize + h.indexLen() + h.Stored }

func (h Header) encode(b []byte) {
	le := binary.LittleEndian
	clear(b[:HeaderSize])
	copy(b, magic)
	b[4], b[5], b[6] = version, byte(h.Kind), byte(h.Codec)
	copy(b[8:], h.Machine[:])
	le.PutUint64(b[24:], uint64(h.Epoch))
	le.PutUint64(b[32:], uint64(h.First))
	le.PutUint64(b[40:], uint64(h.Last))
	le.PutUint64(b[48:], uint64(h.Opened.UnixNano()))
	le.PutUint64(b[56:], uint64(h.Closed.UnixNano()))
	le.PutUint16(b[64:], uint16(h.Disks))
	le.PutUint32(b[68:], uint32(h.Extents))
	le.PutUint32(b[72:], uint32(h.Stored))
	le.PutUint32(b[76:], uint32(h.Raw))
	le.PutUint32(b[80:], h.indexSum)
	le.PutUint32(b[84:], h.payloadSum)
	le.PutUint32(b[124:], checksum(b[:124]))
}

// ParseHeader reads and judges the first HeaderSize bytes of a frame. It allocates
// nothing; after it Size is within MaxSize.
func ParseHeader(b []byte) (Header, error) {
	var h Header
	if len(b) < HeaderSize {
		return h, fmt.Errorf("%w: %d bytes, a header has %d", ErrTruncated, len(b), HeaderSize)
	}
	if string(b[:4]) != magic {
		return h, fmt.Errorf("%w: begins with %x", ErrNotFrame, b[:4])
	}
	if b[4] != version {
		return h, fmt.Errorf("%w %d: this build reads version %d", ErrVersion, b[4], version)
	}
	le := binary.LittleEndian
	if checksum(b[:124]) != le.Uint32(b[124:]) {
		return h, ErrHeaderChecksum
	}
	h = Header{
		Kind: Kind(b[5]), Codec: Codec(b[6]),
		Machine: block.MachineID(b[8:24]),
		Epoch:   block.Epoch(le.Uint64(b[24:])),
		First:   block.Seq(le.Uint64(b[32:])), Last: block.Seq(le.Uint64(b[40:])),
		Opened: time.Unix(0, int64(le.Uint64(b[48:]))), Closed: time.Unix(0, int64(le.Uint64(b[56:]))),
		Disks: int(le.Uint16(b[64:])), Extents: int(le.Uint32(b[68:])),
		Stored: int(le.Uint32(b[72:])), Raw: int(le.Uint32(b[76:])),
		indexSum: le.Uint32(b[80:]), payloadSum: le.Uint32(b[84:]),
	}
	return h, h.validate()
}

func (h Header) validate() error {
	switch {
	case h.Disks > MaxDisks || h.Extents > MaxExtents || h.Raw > MaxPayload || h.Stored > h.Raw:
		return fmt.Errorf("%w: %d disks, %d extents, %d payload bytes stored for %d", ErrLimit, h.Disks, h.Extents, h.Stored, h.Raw)
	case h.Kind < KindLog || h.Kind > KindMark:
		return fmt.Errorf("%w: kind %s", ErrMalformed, h.Kind)
	case h.Codec < CodecRaw || h.Codec > CodecLZ4 || h.Codec == CodecRaw && h.Stored != h.Raw:
		return fmt.Errorf("%w: codec %s, %d bytes stored for %d", ErrMalformed, h.Codec, h.Stored, h.Raw)
	case h.Machine.IsZero() || h.Epoch == 0 || h.First == 0 || h.Last < h.First:
		return fmt.Errorf("%w: machine %s epoch %d records %d..%d", ErrMalformed, h.Machine, h.Epoch, h.First, h.Last)
	case h.Kind != KindLog && h.First != h.Last:
		return fmt.Errorf("%w: a %s frame spans %d..%d", ErrMalformed, h.Kind, h.First, h.Last)
	case h.Kind == KindMark && (h.Extents != 0 || h.Disks != 0):
		return fmt.Errorf("%w: a mark with extents", ErrMalformed)
	}
	return nil
}
