package frame

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

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
	// maxUnsampled frames go by unsampled at most, after some whose samples did not pay:
	// what a machine writes keeps its nature for a while.
	maxUnsampled = 7
	// headRoom is left before a payload for header and index, so that it need not be
	// moved behind them: enough for 650 records.
	headRoom = 16 << 10
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
	data    []byte // behind headRoom bytes
	records int
	newest  map[place]int

	packed    []byte // as data, compressed
	table     lz4Table
	dull      int // samples that did not pay, in a row
	unsampled int // how many more frames are not sampled
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
	return &Builder{machine: machine, data: make([]byte, headRoom), newest: make(map[place]int)}
}

// Reset begins a frame and forgets what was gathered. kind is KindLog or KindBase.
func (b *Builder) Reset(kind Kind, epoch block.Epoch, first block.Seq, opened time.Time) {
	b.kind, b.epoch, b.first, b.opened = kind, epoch, first, opened
	b.disks, b.extents, b.data = b.disks[:0], b.extents[:0], b.data[:headRoom]
	b.records = 0
	clear(b.newest)
}

// Room reports whether a record with n bytes of data still fits.
func (b *Builder) Room(n int) bool {
	return len(b.extents) < MaxExtents && b.Len()+n <= MaxPayload
}

// Len is the number of payload bytes gathered.
func (b *Builder) Len() int { return len(b.data) - headRoom }

func (b *Builder) payload() []byte { return b.data[headRoom:] }

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
	b.extents = append(b.extents, entry{disk: d, op: op, dataOff: int64(b.Len()), Extent: e})
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
	live, old, data := b.extents[:0], b.payload(), b.data[:headRoom]
	for _, e := range b.extents {
		if e.dead {
			continue
		}
		if e.op == OpWrite {
			at := int64(len(data) - headRoom)
			data = append(data, old[e.dataOff:e.dataOff+e.Len]...)
			e.dataOff = at
		}
		live = append(live, e)
	}
	b.extents, b.data = live, data
}

// Append closes the frame at last and closed and appends its encoding to dst.
// Reset must follow before the next Add.
func (b *Builder) Append(dst []byte, last block.Seq, closed time.Time, c Compression) ([]byte, error) {
	raw, err := b.Close(last, closed, c)
	return append(dst, raw...), err
}

// Close is Append without the copy: the encoding lies in the builder's memory and is
// valid until the next Add.
func (b *Builder) Close(last block.Seq, closed time.Time, c Compression) ([]byte, error) {
	if len(b.newest) < len(b.extents) {
		b.compact()
	}
	h := Header{
		Kind: b.kind, Codec: CodecRaw, Machine: b.machine, Epoch: b.epoch,
		First: b.first, Last: last, Opened: b.opened, Closed: closed,
		Disks: len(b.disks), Extents: len(b.extents), Raw: b.Len(),
	}
	body := b.data
	if packed := b.compress(c); packed != nil {
		h.Codec, body = CodecLZ4, packed
	}
	h.Stored = len(body) - headRoom
	if h.IndexSize() > headRoom {
		return appendFrame(nil, h, b.disks, b.extents, body[headRoom:])
	}
	if err := h.validate(); err != nil {
		return nil, err
	}
	raw := body[headRoom-h.IndexSize():]
	appendIndex(raw[:HeaderSize], b.disks, b.extents)
	h.seal(raw)
	return raw, nil
}

// compress is the LZ4 form of the payload behind headRoom, or nil where raw is the
// better form.
func (b *Builder) compress(c Compression) []byte {
	n := b.Len()
	if c == CompressNever || n == 0 || c == CompressAuto && !b.pays() {
		return nil
	}
	return b.pack(b.payload(), n-n/minSaving)
}

// pack compresses src behind headRoom if the result fits into limit bytes.
func (b *Builder) pack(src []byte, limit int) []byte {
	if need := headRoom + lz4Room(limit); cap(b.packed) < need {
		b.packed = make([]byte, need)
	}
	n := b.table.pack(b.packed[headRoom:cap(b.packed)], src, limit)
	if n == 0 {
		return nil
	}
	return b.packed[:headRoom+n]
}

// pays reports whether the payload is worth compressing, by samples spread over it.
func (b *Builder) pays() bool {
	if b.Len() <= sampleSize*sampleCount {
		return true
	}
	if b.unsampled > 0 {
		b.unsampled--
		return false
	}
	if b.samplesPay() {
		b.dull = 0
		return true
	}
	b.dull++
	b.unsampled = min(b.dull-1, maxUnsampled)
	return false
}

func (b *Builder) samplesPay() bool {
	saved := 0
	for i := range sampleCount {
		at := (b.Len() - sampleSize) / (sampleCount - 1) * i
		if p := b.pack(b.payload()[at:at+sampleSize], sampleSize); p != nil {
			saved += sampleSize - (len(p) - headRoom)
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
	dst = append(appendIndex(dst[:start+HeaderSize], disks, extents), payload...)
	h.seal(dst[start:])
	return dst, nil
}

func appendIndex(dst []byte, disks []block.DiskID, extents []entry) []byte {
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
	return dst
}

// seal completes a frame, of which index and payload are in their places.
func (h Header) seal(raw []byte) {
	h.indexSum = checksum(raw[HeaderSize:h.IndexSize()])
	h.payloadSum = checksum(raw[h.IndexSize():])
	h.encode(raw)
}

// AppendTick appends a log frame without records: watched up to at, nothing written.
func AppendTick(dst []byte, machine block.MachineID, epoch block.Epoch, seq block.Seq, at time.Time) ([]byte, error) {
	h := Header{Kind: KindLog, Codec: CodecRaw, Machine: machine, Epoch: epoch, First: seq, Last: seq, Opened: at, Closed: at}
	return appendFrame(dst, h, nil, nil, nil)
}
