package vault

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// unit names something in the payload cache: a decrypted chunk of an object's data
// section, or the decompressed payload of one of its frames.
type unit struct {
	key    string
	off    int64 // chunk number, or place of the frame in the data section
	packed bool  // a decompressed payload
}

// source is where a frame's payload lies. It does not hold on to the frame's head, so
// that a view's memory does not grow with the indexes it was mapped from.
type source struct {
	*object
	dataOff int64
	codec   frame.Codec
	raw     int32 // bytes
}

// readPayload fills p with the raw payload's bytes from off on. Raw payloads are read
// by the chunk; compressed ones are decompressed whole and kept for a while.
func (f *fetcher) readPayload(ctx context.Context, s source, p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > int64(s.raw) {
		return fmt.Errorf("vault: %d bytes at %d of a payload of %d", len(p), off, s.raw)
	}
	if s.codec == frame.CodecRaw {
		return f.readData(ctx, s.object, p, s.dataOff+off)
	}
	raw, err := f.payloads.get(ctx, unit{s.key, s.dataOff, true}, func() ([]byte, int64, error) {
		raw, err := f.unpack(ctx, s, nil)
		return raw, int64(len(raw)), err
	})
	if err != nil {
		return err
	}
	copy(p, raw[off:])
	return nil
}

// unpack puts a frame together again, verifies it and decompresses its payload, into dst
// if that has the room.
func (f *fetcher) unpack(ctx context.Context, s source, dst []byte) ([]byte, error) {
	o, err := f.frames(ctx, s.key, s.header.Kind)
	if err != nil {
		return nil, err
	}
	h, err := o.at(s.dataOff)
	if err != nil {
		return nil, err
	}
	buf, _ := f.v.packed.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	defer f.v.packed.Put(buf)
	whole, err := f.whole(ctx, s.object, h, *buf)
	if err != nil {
		return nil, err
	}
	*buf = whole.Bytes()
	return whole.Payload(dst) // memory of its own: the frame is compressed
}

// at finds the frame whose payload begins at dataOff.
func (o frames) at(dataOff int64) (head, error) {
	i, _ := slices.BinarySearchFunc(o.heads, dataOff, func(h head, off int64) int { return cmp.Compare(h.dataOff, off) })
	for ; i < len(o.heads) && o.heads[i].dataOff == dataOff; i++ {
		if h := o.heads[i]; h.Kind != frame.KindMark && h.Stored > 0 {
			return h, nil
		}
	}
	return head{}, fmt.Errorf("%w: no payload at %d", errHeads, dataOff)
}

// readData fills p with the data section's bytes from off on: from cached chunks
// where there are any at the head, and the rest by one ranged get.
func (f *fetcher) readData(ctx context.Context, o *object, p []byte, off int64) error {
	for len(p) > 0 {
		chunk, ok := f.payloads.peek(unit{key: o.key, off: off / sealed.ChunkSize})
		if !ok {
			break
		}
		n := copy(p, chunk[off%sealed.ChunkSize:])
		p, off = p[n:], off+int64(n)
	}
	if len(p) == 0 {
		return nil
	}
	r, err := o.header.Range(sealed.Data, off, int64(len(p)))
	if err != nil {
		return err
	}
	b, err := f.v.store.Get(ctx, o.key, r.Off, r.Len)
	if err != nil {
		return err
	}
	return f.openChunks(o, r, b, p)
}

// openChunks decrypts a fetched range into p. Chunks that p covers whole are opened in
// place; the first and the last, of which a next read may want the rest, are cached.
func (f *fetcher) openChunks(o *object, r sealed.Range, b, p []byte) error {
	opener := sealed.NewOpener(f.key, o.key, o.header)
	skip := int(r.Skip)
	for i := range r.Chunks {
		var err error
		if skip == 0 && len(p) >= sealed.ChunkSize {
			if _, b, err = opener.OpenChunk(p[:0], sealed.Data, r.First+i, b); err != nil {
				return err
			}
			p = p[sealed.ChunkSize:]
			continue
		}
		var chunk []byte
		if chunk, b, err = opener.OpenChunk(nil, sealed.Data, r.First+i, b); err != nil {
			return err
		}
		f.payloads.put(unit{key: o.key, off: r.First + i}, chunk, int64(cap(chunk)))
		p = p[copy(p, chunk[skip:]):]
		skip = 0
	}
	return nil
}
