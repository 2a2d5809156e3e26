package sealed

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
)

// Key is a 256-bit key.
type Key [32]byte

// NewKey draws a random key.
func NewKey() Key {
	var k Key
	_, _ = rand.Read(k[:]) // never fails: crypto/rand ends the process instead
	return k
}

// Derive makes the key for another purpose out of k.
func (k Key) Derive(salt []byte, purpose string) Key {
	b, err := hkdf.Key(sha256.New, k[:], salt, purpose, len(k))
	if err != nil {
		panic(err) // only for lengths that a constant 32 is not
	}
	return Key(b)
}

// AEAD is AES-256-GCM under the key.
func (k Key) AEAD() cipher.AEAD {
	blk, err := aes.NewCipher(k[:])
	if err != nil {
		panic(err) // only for lengths that a Key does not have
	}
	gcm, err := cipher.NewGCM(blk)
	if err != nil {
		panic(err) // only for block sizes that AES does not have
	}
	return gcm
}

// Sections are the plaintexts of an object; Data may come in pieces.
type Sections struct {
	Index  []byte
	Data   [][]byte
	Hashes []byte
}

func size(pieces [][]byte) (n int64) {
	for _, p := range pieces {
		n += int64(len(p))
	}
	return n
}

func (s *Sections) lens() [sections]int64 {
	return [sections]int64{int64(len(s.Index)), size(s.Data), int64(len(s.Hashes))}
}

// Size is how long the object of these sections will be.
func Size(s Sections) int64 {
	h := Header{Len: s.lens()}
	return h.Size()
}

// sealTask is how many chunks are sealed before they are verified: few enough that they
// are still in the processor's cache.
const sealTask = 16

// Seal encodes an object that will be stored under name, opens it again, and returns
// it only if what came out is what went in. The object lies in buf if that has the room:
// at these sizes fresh memory costs as much as the encryption.
func Seal(buf []byte, key Key, name string, kind Kind, generation uint64, s Sections) ([]byte, error) {
	h := Header{Kind: kind, Generation: generation, Len: s.lens()}
	_, _ = rand.Read(h.Salt[:])
	for i, n := range h.Len {
		if n > MaxSection {
			return nil, fmt.Errorf("%w: section %d of %s has %d bytes", ErrLimit, i, name, n)
		}
	}
	o := NewOpener(key, name, h)
	out := slices.Grow(buf[:0], int(h.Size()))[:h.Size()]
	copy(out, o.aad[:HeaderSize])
	if again, err := ParseHeader(out); err != nil || again != h {
		return nil, fmt.Errorf("sealing %s: its header comes back as %+v: %w", name, again, err)
	}
	for i, pieces := range [sections][][]byte{{s.Index}, s.Data, {s.Hashes}} {
		for first := int64(0); first < chunks(h.Len[i]); first += sealTask {
			if err := o.sealChunks(out, Section(i), first, pieces); err != nil {
				return nil, fmt.Errorf("sealing %s: what was just encoded does not decode; suspect this machine: %w", name, err)
			}
		}
	}
	return out, nil
}

// sealChunks seals some chunks in their places in out, and then opens and compares them.
func (o *Opener) sealChunks(out []byte, s Section, first int64, pieces [][]byte) error {
	r, err := o.Range(s, first<<chunkShift, min(sealTask<<chunkShift, o.Len[s]-first<<chunkShift))
	if err != nil {
		return err
	}
	plain, sealed := cursorAt(pieces, first<<chunkShift), out[r.Off:r.Off]
	buf, opened := make([]byte, 0, o.plainLen(s, first)), make([]byte, 0, o.plainLen(s, first))
	for n := first; n < first+r.Chunks; n++ {
		nonce := nonce(s, n)
		sealed = o.aead.Seal(sealed, nonce[:], plain.next(int(o.plainLen(s, n)), buf), o.aad)
	}
	plain = cursorAt(pieces, first<<chunkShift)
	for n := first; n < first+r.Chunks; n++ {
		var chunk []byte
		if chunk, sealed, err = o.OpenChunk(opened, s, n, sealed); err != nil {
			return err
		}
		if !bytes.Equal(chunk, plain.next(len(chunk), buf)) {
			return fmt.Errorf("%w: chunk %d of section %d", ErrAuth, n, s)
		}
	}
	return nil
}

// cursor walks over pieces as if they were one.
type cursor struct {
	head []byte
	rest [][]byte
}

// cursorAt is a cursor n bytes behind the beginning of pieces.
func cursorAt(pieces [][]byte, n int64) cursor {
	for len(pieces) > 0 && n >= int64(len(pieces[0])) {
		n -= int64(len(pieces[0]))
		pieces = pieces[1:]
	}
	c := cursor{rest: pieces}
	if n > 0 {
		c.head, c.rest = pieces[0][n:], pieces[1:]
	}
	return c
}

// next is the next n bytes: where they lie if within one piece, else gathered in buf.
func (c *cursor) next(n int, buf []byte) []byte {
	for len(c.head) == 0 {
		c.head, c.rest = c.rest[0], c.rest[1:]
	}
	if len(c.head) >= n {
		var out []byte
		out, c.head = c.head[:n], c.head[n:]
		return out
	}
	for len(buf) < n {
		if len(c.head) == 0 {
			c.head, c.rest = c.rest[0], c.rest[1:]
		}
		k := min(n-len(buf), len(c.head))
		buf, c.head = append(buf, c.head[:k]...), c.head[k:]
	}
	return buf
}

// Opener opens the chunks of one object. It is safe for concurrent use.
type Opener struct {
	Header
	name string
	aead cipher.AEAD
	aad  []byte
}

// NewOpener prepares to open the object with this name and header.
func NewOpener(key Key, name string, h Header) *Opener {
	var b [HeaderSize]byte
	h.encode(&b)
	return &Opener{
		Header: h, name: name,
		aead: key.Derive(h.Salt[:], "understudy object 1").AEAD(),
		aad:  append(b[:], name...),
	}
}

func nonce(s Section, chunk int64) (n [12]byte) {
	n[0] = byte(s)
	binary.BigEndian.PutUint64(n[4:], uint64(chunk))
	return n
}

// OpenChunk opens the chunk that sealed begins with, appends its plaintext to dst and
// returns what follows it in sealed.
func (o *Opener) OpenChunk(dst []byte, s Section, chunk int64, sealed []byte) (out, rest []byte, err error) {
	n := o.plainLen(s, chunk) + tagSize
	if int64(len(sealed)) < n {
		return dst, nil, fmt.Errorf("%w: %s ends inside chunk %d of section %d", ErrTruncated, o.name, chunk, s)
	}
	nonce := nonce(s, chunk)
	out, err = o.aead.Open(dst, nonce[:], sealed[:n], o.aad)
	if err != nil {
		return dst, nil, fmt.Errorf("%w: chunk %d of section %d of %s", ErrAuth, chunk, s, o.name)
	}
	return out, sealed[n:], nil
}

// Open opens all the chunks of a range and appends their plaintext to dst; sealed
// holds exactly the range's bytes. Skip is left to the caller.
func (o *Opener) Open(dst []byte, r Range, sealed []byte) ([]byte, error) {
	var err error
	for i := range r.Chunks {
		if dst, sealed, err = o.OpenChunk(dst, r.Section, r.First+i, sealed); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

// OpenSection opens a whole section out of the bytes of a whole object.
func (o *Opener) OpenSection(s Section, object []byte) ([]byte, error) {
	r, err := o.Range(s, 0, o.Len[s])
	if err != nil {
		return nil, err
	}
	if int64(len(object)) < r.Off+r.Len {
		return nil, fmt.Errorf("%w: %s has %d bytes, its header says %d", ErrTruncated, o.name, len(object), o.Size())
	}
	return o.Open(make([]byte, 0, o.Len[s]), r, object[r.Off:r.Off+r.Len])
}
