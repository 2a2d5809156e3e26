package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
	"github.com/understudy-dr/understudy/pkg/block"
)

// firstGet is how much of an object is fetched before its header is known: enough
// for the whole index of most objects, so that opening one costs one round trip.
const firstGet = 64 << 10

// object is a stored object whose header has been read.
type object struct {
	key    string
	header sealed.Header
}

// size is the object's length on the store in bytes.
func (o *object) size() int64 { return o.header.Size() }

// fetcher reads the sealed objects of one machine.
type fetcher struct {
	v        *Vault
	id       block.MachineID
	key      sealed.Key
	indexes  *cache[string, frames]
	payloads *cache[unit, []byte]
}

func (v *Vault) fetcher(id block.MachineID, key sealed.Key) *fetcher {
	return &fetcher{v: v, id: id, key: key, indexes: v.indexes, payloads: v.payloads}
}

// ID is the machine's identity.
func (f *fetcher) ID() block.MachineID { return f.id }

// open fetches an object's header and index section.
func (f *fetcher) open(ctx context.Context, name string, kind sealed.Kind) (*object, []byte, error) {
	b, err := f.v.store.Get(ctx, name, 0, firstGet)
	if err != nil {
		return nil, nil, err
	}
	h, err := sealed.ParseHeader(b)
	if err != nil {
		return nil, nil, err
	}
	if h.Kind != kind {
		return nil, nil, fmt.Errorf("%w: holds a %s, want a %s", sealed.ErrMalformed, h.Kind, kind)
	}
	obj := &object{key: name, header: h}
	index, err := f.section(ctx, obj, sealed.Index, 0, h.Len[sealed.Index], b)
	return obj, index, err
}

// section fetches and opens n bytes of a section from off on. have is the beginning
// of the object, as far as the caller has it.
func (f *fetcher) section(ctx context.Context, obj *object, s sealed.Section, off, n int64, have []byte) ([]byte, error) {
	r, err := obj.header.Range(s, off, n)
	if err != nil || r.Chunks == 0 {
		return nil, err
	}
	var b []byte
	if end := r.Off + r.Len; end <= int64(len(have)) {
		b = have[r.Off:end]
	} else if b, err = f.v.store.Get(ctx, obj.key, r.Off, r.Len); err != nil {
		return nil, err
	}
	if int64(len(b)) < r.Len { // no room is made for what a header claims and the store has not
		return nil, fmt.Errorf("%w: %s has %d of the %d bytes at %d that its header says", sealed.ErrTruncated, obj.key, len(b), r.Len, r.Off)
	}
	plain := make([]byte, 0, r.Len)
	plain, err = sealed.NewOpener(f.key, obj.key, obj.header).Open(plain, r, b)
	if err != nil {
		return nil, err
	}
	return plain[r.Skip : r.Skip+n], nil
}

// frames is an object that holds frames, with their heads.
type frames struct {
	*object
	heads []head
}

// frames fetches an object and the heads of its frames, through the cache.
func (f *fetcher) frames(ctx context.Context, name string, kind sealed.Kind) (frames, error) {
	return f.indexes.get(ctx, name, func() (frames, int64, error) {
		obj, index, err := f.open(ctx, name, kind)
		if err != nil {
			return frames{}, 0, err
		}
		heads, err := parseHeads(index, obj.header.Len[sealed.Data])
		return frames{obj, heads}, headsCost(heads), err
	})
}

// headsCost is what decoded heads occupy in memory.
func headsCost(heads []head) (n int64) {
	for _, h := range heads {
		n += int64(len(h.raw)) + 256
	}
	return n
}

// document fetches a JSON document into doc.
func (f *fetcher) document(ctx context.Context, name string, doc any) error {
	_, index, err := f.open(ctx, name, sealed.KindDocument)
	if err != nil {
		return err
	}
	return json.Unmarshal(index, doc)
}

// putDocument stores a JSON document if its name is free.
func (f *fetcher) putDocument(ctx context.Context, name string, generation uint64, doc any) error {
	b, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("vault: encoding %s: %w", name, err)
	}
	return f.seal(name, sealed.KindDocument, generation, sealed.Sections{Index: b}, func(object []byte) error {
		return f.v.store.Put(ctx, name, object)
	})
}

// newest finds the highest number under a prefix of numbered documents; 0 if there
// is none. A listing may be late, so it is carried on by asking for the next number.
func (f *fetcher) newest(ctx context.Context, prefix string) (uint64, error) {
	var top uint64
	for info, err := range f.v.store.List(ctx, prefix) {
		if err != nil {
			return 0, err
		}
		numbers, err := parseNumbers(info.Key, prefix, 1)
		if err != nil {
			return 0, err
		}
		top = max(top, numbers[0])
	}
	for {
		ok, err := f.exists(ctx, numbered(prefix, top+1))
		if err != nil || !ok {
			return top, err
		}
		top++
	}
}

func (f *fetcher) exists(ctx context.Context, name string) (bool, error) {
	_, err := f.v.store.Head(ctx, name)
	if errors.Is(err, objstore.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// seal encrypts an object in borrowed memory and hands it to use, which must not keep
// it.
func (f *fetcher) seal(name string, kind sealed.Kind, generation uint64, s sealed.Sections, use func(object []byte) error) error {
	buf, _ := f.v.buffers.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	defer f.v.buffers.Put(buf)
	object, err := sealed.Seal(*buf, f.key, name, kind, generation, s)
	if err != nil {
		return err
	}
	*buf = object
	return use(object)
}
