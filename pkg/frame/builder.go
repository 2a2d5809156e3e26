package frame

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/pierrec/lz4/v4"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Compression is the sender's choice for a frame's payload.
type Compression uint8

// The choices. Auto compresses a sample first and the whole only where that pays;
// Never is for a sender that is short of CPU.
const (
	CompressAuto Compression = iota
	CompressNever
	CompressAlways
)

const (
	// sampleSize bytes from each of sampleCount places decide CompressAuto: 64 KiB of
	// LZ4 cost about 0.1 ms, a twentieth of compressing a 1 MiB frame in vain.
	sampleSize  = 16 << 10
	sampleCount = 4
	// Below an eighth saved, the reader's decompression costs more than the wire.
	minSaving = 8
)

// Builder gathers records into one frame after another, reusing its memory. Within a
// frame a write replaced by a later one of exactly the same place is dropped: nothing
// between two frame boundaries is ever a recovery point. Not safe for concurrent use.
type Builder struct {
	machine block.MachineID
	kind    Kind
	epoch   block.Epoch
	first   block.Seq
	opened  time.Time

	disks   []block.DiskID
	extents []entry
	data    []byte
	records int
	newest  map[place]int
	packed  []byte
	comp    lz4.Compressor
}

type entry struct {
	disk    uint16
	op      Op
	dead    bool
	dataOff int64
	block.Extent
}

type place struct {
	disk uint16
	block.Extent
}

// NewBuilder makes frames of one machine. Reset begins the first.
func NewBuilder(machine block.MachineID) *Builder {
	return &Builder{machine: machine, newest: make(map[place]int)}
}

// Reset begins a frame and forgets what was gathered. kind is KindLog or KindBase.
func (b *Builder) Reset(kind Kind, epoch block.Epoch, first block.Seq, opened time.Time) {
	b.kind, b.epoch, b.first, b.opened = kind, epoch, first, opened
	b.disks, b.extents, b.data = b.disks[:0], b.extents[:0], b.data[:0]
	b.records = 0
	clear(b.newest)
}

// Room reports whether a record with n bytes of data still fits.
func (b *Builder) Room(n int) bool {
	return len(b.extents) < MaxExtents && len(b.data)+n <= MaxPayload
}

// Len is the number of payload bytes gathered; Records the number of records added.
func (b *Builder) Len() int { return len(b.data) }

// Records is the number of records added, also those overwritten since.
func (b *Builder) Records() int { return b.records }

// Add appends a record and copies its data (writes only; len(data) == e.Len). The
// caller has asked Room first: without it Add reports ErrLimit and changes nothing.
func (b *Builder) Add(disk block.DiskID, op Op, e block.Extent, data []byte) error {
	if op == OpWrite && int64(len(data)) != e.Len || op != OpWrite && len(data) != 0 {
		return fmt.Errorf("%w: %s of %v with %d bytes of data", ErrMalformed, op, e, len(data))
	}
	d, err := b.disk(disk)
	if err != nil {
		return err
	}
	if !b.Room(len(data)) {
		return fmt.Errorf("%w: frame is full", ErrLimit)
	}
	b.drop(place{d, e}, len(b.extents))
	b.extents = append(b.extents, entry{disk: d, op: op, dataOff: int64(len(b.data)), Extent: e})
	b.data = append(b.data, data...)
	b.records++
	return nil
}

// drop marks an earlier record of exactly this place as overwritten by record i.
func (b *Builder) drop(p place, i int) {
	if old, ok := b.newest[p]; ok {
		b.extents[old].dead = true
	}
	b.newest[p] = i
}

func (b *Builder) disk(id block.DiskID) (uint16, error) {
	if i := slices.Index(b.disks, id); i >= 0 {
		return uint16(i), nil
	}
	if id.IsZero() || len(b.disks) == MaxDisks {
		return 0, fmt.Errorf("%w: disk %s is one more than %d in a frame, or has no id", ErrLimit, id, MaxDisks)
	}
	b.disks = append(b.disks, id)
	return uint16(len(b.disks) - 1), nil
}

// compact takes overwritten records and their data out.
func (b *Builder) compact() {
	live, data := b.extents[:0], b.data[:0]
	for _, e := range b.extents {
		if e.dead {
			continue
		}
		if e.op == OpWrite {
			at := int64(len(data))
			data = append(data, b.data[e.dataOff:e.dataOff+e.Len]...)
			e.dataOff = at
		}
		live = append(live, e)
	}
	b.extents, b.data = live, data
}

// Append closes the frame at last and closed and appends its encoding to dst.
// Reset must follow before the next Add.
func (b *Builder) Append(dst []byte, last block.Seq, closed time.Time, c Compression) ([]byte, error) {
	if len(b.newest) < len(b.extents) {
		b.compact()
	}
	h := Header{
		Kind: b.kind, Codec: CodecRaw, Machine: b.machine, Epoch: b.epoch,
		First: b.first, Last: last, Opened: b.opened, Closed: closed,
		Disks: len(b.disks), Extents: len(b.extents), Raw: len(b.data),
	}
	payload := b.data
	if packed := b.compress(c); packed != nil {
		h.Codec, payload = CodecLZ4, packed
	}
	return appendFrame(dst, h, b.disks, b.extents, payload)
}

// compress is the LZ4 form of the payload, or nil where raw is the better form.
func (b *Builder) compress(c Compression) []byte {
	if c == CompressNever || len(b.data) == 0 || c == CompressAuto && !b.pays() {
		return nil
	}
	return b.pack(b.data, len(b.data)-len(b.data)/minSaving)
}

// pack compresses src if the result fits into limit bytes.
func (b *Builder) pack(src []byte, limit int) []byte {
	if bound := lz4.CompressBlockBound(len(src)); cap(b.packed) < bound {
		b.packed = make([]byte, bound)
	}
	n, err := b.comp.CompressBlock(src, b.packed[:cap(b.packed)])
	if err != nil || n == 0 || n > limit {
		return nil
	}
	return b.packed[:n]
}

// pays reports whether samples spread over the payload compress.
func (b *Builder) pays() bool {
	if len(b.data) <= sampleSize*sampleCount {
		return true
	}
	saved := 0
	for i := range sampleCount {
		at := (len(b.data) - sampleSize) / (sampleCount - 1) * i
		if p := b.pack(b.data[at:at+sampleSize], sampleSize); p != nil {
			saved += sampleSize - len(p)
		}
	}
	return saved >= sampleSize*sampleCount/minSaving
}

func appendFrame(dst []byte, h Header, disks []block.DiskID, extents []entry, payload []byte) ([]byte, error) {
	h.Stored = len(payload)
	if err := h.validate(); err != nil {
		return dst, err
	}
	start := len(dst)
	dst = slices.Grow(dst, h.Size())
	dst = dst[:start+HeaderSize]
	for _, d := range disks {
		dst = append(dst, d[:]...)
	}
	le := binary.LittleEndian
	for _, e := range extents {
		dst = le.AppendUint16(dst, e.disk)
		dst = append(dst, byte(e.op), 0)
		dst = le.AppendUint32(dst, uint32(e.dataOff))
		dst = le.AppendUint64(dst, uint64(e.Off))
		dst = le.AppendUint64(dst, uint64(e.Len))
	}
	h.indexSum = checksum(dst[start+HeaderSize:])
	h.payloadSum = checksum(payload)
	dst = append(dst, payload...)
	h.encode(dst[start:])
	return dst, nil
}

// AppendTick appends a log frame without records: watched up to at, nothing written.
func AppendTick(dst []byte, machine block.MachineID, epoch block.Epoch, seq block.Seq, at time.Time) ([]byte, error) {
	h := Header{Kind: KindLog, Codec: CodecRaw, Machine: machine, Epoch: epoch, First: seq, Last: seq, Opened: at, Closed: at}
	return appendFrame(dst, h, nil, nil, nil)
}
