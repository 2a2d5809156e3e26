// Package sealed is the form of every encrypted object of a vault: a header in the
// clear, then up to three sections, each cut into chunks of 64 KiB and sealed chunk
// by chunk with AES-256-GCM, so that a ranged read fetches and decrypts only the
// chunks it touches. The package does no I/O.
//
// # Layout, version 1, little-endian
//
//	 0   4  magic "USVO"
//	 4   1  version (1)
//	 5   1  kind: 1 log, 2 base, 3 run, 4 document
//	 6   1  log2 of the chunk size (16)
//	 7   1  zero
//	 8  16  salt, random for each object
//	24   8  generation of the lease (log, base) or of the manifest (run) it was
//	        written under; of the document itself (document)
//	32   8  plaintext length of section 0, the index
//	40   8  plaintext length of section 1, the data
//	48   8  plaintext length of section 2, the range hashes
//	56   4  zero
//	60   4  CRC-32C of bytes 0..59
//	64      section 0: chunks of 65536 plaintext bytes (the last one shorter), each
//	        followed by its 16-byte tag; then section 1; then section 2
//
// # Keys and nonces
//
// An object's key is HKDF-SHA256(data key of the machine, salt, "understudy object
// 1"), so that no two objects share one. Within an object the nonce is the section
// (1 byte), three zero bytes and the chunk's number (8 bytes, big-endian): no pair of
// key and nonce occurs twice, however many objects a machine has. The associated data
// of every chunk is the header followed by the object's name: a chunk opens only at
// its own place in its own object under its own name, and an object that was cut
// short, swapped or renamed does not open at all.
package sealed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Limits and sizes, in bytes.
const (
	HeaderSize = 64
	ChunkSize  = 1 << chunkShift
	// MaxSection bounds what a header may claim; the vault's own objects stay far below.
	MaxSection = 1 << 32

	chunkShift = 16
	tagSize    = 16
	version    = 1
	magic      = "USVO"
)

// The verdicts on an object's bytes, in the order in which they are tried.
var (
	ErrTruncated = errors.New("sealed: truncated")
	ErrNotSealed = errors.New("sealed: not an object of a vault")
	ErrVersion   = errors.New("sealed: unknown version")
	ErrChecksum  = errors.New("sealed: header checksum does not match")
	ErrLimit     = errors.New("sealed: exceeds a limit")
	ErrMalformed = errors.New("sealed: malformed header")
	// ErrAuth: the bytes were altered, or belong to another object, or another key.
	ErrAuth = errors.New("sealed: authentication failed")
)

// Kind says what an object holds.
type Kind uint8

// The kinds of object.
const (
	KindLog      Kind = 1 // consecutive log and mark frames of a machine, as they came
	KindBase     Kind = 2 // consecutive base frames of one epoch, as they came
	KindRun      Kind = 3 // part of a merged run: frames sorted by disk and offset
	KindDocument Kind = 4 // JSON in the index section
)

func (k Kind) String() string {
	if k < KindLog || k > KindDocument {
		return fmt.Sprintf("unknown(%d)", uint8(k))
	}
	return [...]string{"log", "base", "run", "document"}[k-1]
}

// Section names one of the parts of an object.
type Section uint8

// The sections.
const (
	Index Section = iota
	Data
	Hashes
	sections
)

// Header is the clear part of an object. Every bit of it is authenticated by every
// chunk.
type Header struct {
	Kind       Kind
	Salt       [16]byte
	Generation uint64
	Len        [sections]int64 // plaintext bytes of each section
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (h *Header) encode(b *[HeaderSize]byte) {
	le := binary.LittleEndian
	clear(b[:])
	copy(b[:], magic)
	b[4], b[5], b[6] = version, byte(h.Kind), chunkShift
	copy(b[8:], h.Salt[:])
	le.PutUint64(b[24:], h.Generation)
	for i, n := range h.Len {
		le.PutUint64(b[32+8*i:], uint64(n))
	}
	le.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
}

// ParseHeader reads and judges the first HeaderSize bytes of an object.
func ParseHeader(b []byte) (Header, error) {
	var h Header
	if len(b) < HeaderSize {
		return h, fmt.Errorf("%w: %d bytes, a header has %d", ErrTruncated, len(b), HeaderSize)
	}
	if string(b[:4]) != magic {
		return h, fmt.Errorf("%w: begins with %x", ErrNotSealed, b[:4])
	}
	if b[4] != version {
		return h, fmt.Errorf("%w %d: this build reads version %d", ErrVersion, b[4], version)
	}
	le := binary.LittleEndian
	if crc32.Checksum(b[:60], castagnoli) != le.Uint32(b[60:]) {
		return h, ErrChecksum
	}
	h = Header{Kind: Kind(b[5]), Salt: [16]byte(b[8:24]), Generation: le.Uint64(b[24:])}
	for i := range h.Len {
		n := le.Uint64(b[32+8*i:])
		if n > MaxSection {
			return Header{}, fmt.Errorf("%w: a section of %d bytes", ErrLimit, n)
		}
		h.Len[i] = int64(n)
	}
	if h.Kind < KindLog || h.Kind > KindDocument || b[6] != chunkShift || b[7] != 0 || le.Uint32(b[56:]) != 0 {
		return Header{}, fmt.Errorf("%w: kind %s, chunk size 2^%d", ErrMalformed, h.Kind, b[6])
	}
	return h, nil
}

// chunks is the number of chunks that hold n plaintext bytes.
func chunks(n int64) int64 { return (n + ChunkSize - 1) >> chunkShift }

// storedLen is the length of a section of n plaintext bytes on the store.
func storedLen(n int64) int64 { return n + chunks(n)*tagSize }

// plainLen is the plaintext length of a chunk.
func (h *Header) plainLen(s Section, chunk int64) int64 {
	return min(ChunkSize, h.Len[s]-chunk<<chunkShift)
}

// start is where a section begins in the object.
func (h *Header) start(s Section) int64 {
	off := int64(HeaderSize)
	for i := range s {
		off += storedLen(h.Len[i])
	}
	return off
}

// Size is the length of the whole object.
func (h *Header) Size() int64 { return h.start(sections) }

// Range is a run of whole chunks of one section.
type Range struct {
	Section Section
	First   int64 // number of the first chunk
	Chunks  int64
	Skip    int64 // plaintext bytes of the first chunk before the wanted ones
	Off     int64 // where the first chunk begins in the object
	Len     int64 // bytes of all the chunks in the object, tags included
}

// Range is the run of chunks that holds n plaintext bytes of a section from off on.
// The stretch must lie within the section.
func (h *Header) Range(s Section, off, n int64) (Range, error) {
	if s >= sections || off < 0 || n < 0 || off > h.Len[s] || n > h.Len[s]-off {
		return Range{}, fmt.Errorf("%w: %d bytes at %d of section %d", ErrLimit, n, off, s)
	}
	first, past := off>>chunkShift, chunks(off+n)
	if n == 0 {
		past = first
	}
	end := min(past<<chunkShift, h.Len[s])
	r := Range{Section: s, First: first, Chunks: past - first, Skip: off & (ChunkSize - 1)}
	r.Off = h.start(s) + first*(ChunkSize+tagSize)
	if r.Chunks > 0 {
		r.Len = end - first<<chunkShift + r.Chunks*tagSize
	}
	return r, nil
}
