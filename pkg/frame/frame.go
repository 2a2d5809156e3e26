package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/pierrec/lz4/v4"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Extent is one record of a frame: what happens to a stretch of a disk.
type Extent struct {
	Disk block.DiskID
	Op   Op
	block.Extent
	// DataOff is where the bytes of a write begin in the raw payload.
	DataOff int64
}

// Frame is a verified frame over bytes it does not own: valid as long as they are.
type Frame struct {
	Header
	raw []byte
}

// Parse verifies all of b, which must be exactly one frame: header, index and payload
// checksums, limits, and that every extent is sane and finds its data. It does not
// decompress. The frame refers to b.
func Parse(b []byte) (*Frame, error) {
	h, err := ParseHeader(b)
	if err != nil {
		return nil, err
	}
	if len(b) != h.Size() {
		return nil, fmt.Errorf("%w: %d bytes, its header says %d", ErrTruncated, len(b), h.Size())
	}
	f := &Frame{Header: h, raw: b}
	if checksum(f.index()) != h.indexSum {
		return nil, ErrIndexChecksum
	}
	if checksum(f.stored()) != h.payloadSum {
		return nil, ErrPayloadChecksum
	}
	return f, f.checkIndex()
}

// ParseIndex verifies a header and its index alone, for readers that fetch payloads
// later: b holds at least both. Payload must not be called on the result.
func ParseIndex(b []byte) (*Frame, error) {
	h, err := ParseHeader(b)
	if err != nil {
		return nil, err
	}
	if len(b) < HeaderSize+h.indexLen() {
		return nil, fmt.Errorf("%w: %d bytes do not hold its index", ErrTruncated, len(b))
	}
	f := &Frame{Header: h, raw: b}
	if checksum(f.index()) != h.indexSum {
		return nil, ErrIndexChecksum
	}
	return f, f.checkIndex()
}

// IndexSize is the length of header and index together, what ParseIndex needs.
func (h Header) IndexSize() int { return HeaderSize + h.indexLen() }

// Read reads one whole frame from a stream into buf, growing it up to MaxSize if it
// must, and returns the frame's bytes. Only the header is judged: Parse does the rest.
// io.EOF means that the stream ended cleanly between two frames.
func Read(r io.Reader, buf []byte) ([]byte, error) {
	if cap(buf) < HeaderSize {
		buf = make([]byte, HeaderSize, 64<<10)
	}
	buf = buf[:HeaderSize]
	if _, err := io.ReadFull(r, buf); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: stream ends inside a header", ErrTruncated)
		}
		return nil, err
	}
	h, err := ParseHeader(buf)
	if err != nil {
		return nil, err
	}
	if cap(buf) < h.Size() {
		grown := make([]byte, h.Size())
		copy(grown, buf)
		buf = grown
	}
	buf = buf[:h.Size()]
	if _, err := io.ReadFull(r, buf[HeaderSize:]); err != nil {
		return nil, fmt.Errorf("%w: stream ends inside a frame: %w", ErrTruncated, err)
	}
	return buf, nil
}

// Bytes is the encoded frame.
func (f *Frame) Bytes() []byte { return f.raw[:f.Size()] }

func (f *Frame) index() []byte  { return f.raw[HeaderSize:f.IndexSize()] }
func (f *Frame) stored() []byte { return f.raw[f.IndexSize():f.Size()] }

// disk is the id at place i of the disk table.
func (f *Frame) disk(i int) block.DiskID {
	return block.DiskID(f.index()[i*diskEntry:])
}

// At is the i-th extent, 0 <= i < Extents.
func (f *Frame) At(i int) Extent {
	b := f.index()[f.Disks*diskEntry+i*extentEntry:]
	le := binary.LittleEndian
	return Extent{
		Disk: f.disk(int(le.Uint16(b))), Op: Op(b[2]), DataOff: int64(le.Uint32(b[4:])),
		Extent: block.Extent{Off: int64(le.Uint64(b[8:])), Len: int64(le.Uint64(b[16:]))},
	}
}

// All yields the extents in the order in which they are applied.
func (f *Frame) All() iter.Seq[Extent] {
	return func(yield func(Extent) bool) {
		for i := range f.Extents {
			if !yield(f.At(i)) {
				return
			}
		}
	}
}

// checkIndex proves once what All and At rely on.
func (f *Frame) checkIndex() error {
	for i := range f.Disks {
		if f.disk(i).IsZero() {
			return fmt.Errorf("%w: disk %d has no id", ErrMalformed, i)
		}
	}
	for i := range f.Extents {
		b := f.index()[f.Disks*diskEntry+i*extentEntry:]
		if d := int(binary.LittleEndian.Uint16(b)); d >= f.Disks {
			return fmt.Errorf("%w: extent %d names disk %d of %d", ErrMalformed, i, d, f.Disks)
		}
		e := f.At(i)
		if e.Off < 0 || e.Len <= 0 || e.End() < e.Off || (e.Off|e.Len)%block.SectorSize != 0 {
			return fmt.Errorf("%w: extent %d is %v", ErrMalformed, i, e.Extent)
		}
		if e.Op < OpWrite || e.Op > OpZero || e.Op == OpWrite && (e.Len > MaxPayload || e.DataOff+e.Len > int64(f.Raw)) {
			return fmt.Errorf("%w: extent %d: %s of %d bytes with data at %d of %d", ErrMalformed, i, e.Op, e.Len, e.DataOff, f.Raw)
		}
	}
	return nil
}

// Payload is the raw payload. It decompresses into dst where it must (growing it to
// at most MaxPayload) and refers to the frame's own bytes where it need not.
func (f *Frame) Payload(dst []byte) ([]byte, error) {
	if f.Codec == CodecRaw {
		return f.stored(), nil
	}
	if cap(dst) < f.Raw {
		dst = make([]byte, f.Raw)
	}
	n, err := lz4.UncompressBlock(f.stored(), dst[:f.Raw])
	if err != nil || n != f.Raw {
		return nil, fmt.Errorf("%w: LZ4 gives %d of %d bytes: %w", ErrMalformed, n, f.Raw, errors.Join(err))
	}
	return dst[:n], nil
}
