package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"sync"

	"github.com/understudy-dr/understudy/controlplane/recovery"
)

// direct is the size from which a read does not go through the cache, in bytes: who
// reads so much at once gains nothing, and would push out what others need.
const direct = 2 << 20

// Image is an image read through a cache.
type Image struct {
	cache *Cache
	under recovery.Image

	mu      sync.Mutex
	readers [8]reader // most recent first
}

// reader is a place where somebody reads, perhaps in sequence.
type reader struct {
	next   int64 // the first block that would continue the sequence
	window int64 // blocks within which it does, and to read at once if it does; 0: unused
}

var _ recovery.Image = (*Image)(nil)

// Image wraps an image, whose content must never change.
func (c *Cache) Image(under recovery.Image) *Image {
	return &Image{cache: c, under: under}
}

// Size is the size of the disk in bytes.
func (i *Image) Size() int64 { return i.under.Size() }

// Extents are those of the image below.
func (i *Image) Extents(ctx context.Context, off, length int64) iter.Seq2[recovery.Extent, error] {
	return i.under.Extents(ctx, off, length)
}

// ReadAt reads through the cache.
func (i *Image) ReadAt(p []byte, off int64) (n int, err error) {
	if len(p) >= direct {
		return i.under.ReadAt(p, off)
	}
	size := i.Size()
	if off < 0 || off >= size {
		return 0, io.EOF
	}
	if left := size - off; int64(len(p)) > left {
		p, err = p[:left], io.EOF
	}
	for n < len(p) {
		at := off + int64(n)
		data, failed := i.block(at / BlockSize)
		if failed != nil {
			return n, failed
		}
		n += copy(p[n:], data[at%BlockSize:])
	}
	return n, err
}

// block is the content of one block, from memory if it is there.
func (i *Image) block(b int64) ([]byte, error) {
	for {
		e, mine := i.cache.claim(key{i, b})
		if mine {
			i.miss(b, e)
		}
		<-e.ready
		if errors.Is(e.err, errAgain) {
			continue // it was part of a larger read that failed elsewhere
		}
		if next := i.cache.takeNext(e); next > 0 {
			i.readAhead(next, i.advance(b))
		}
		return e.data, e.err
	}
}

// miss loads a block that is not cached, and what a sequential reader will want next.
func (i *Image) miss(b int64, e *entry) {
	window := i.advance(b)
	batch := i.cache.claimUpTo(min(window, i.blocks()-b), key{i, b}, e)
	if window > 1 {
		i.readAhead(b+int64(len(batch)), window)
	}
	i.load(b, batch)
}

func (i *Image) blocks() int64 { return (i.Size() + BlockSize - 1) / BlockSize }

// advance notes that block b is wanted and says how many blocks to read from there:
// one for a random reader, ever more for a sequential one.
func (i *Image) advance(b int64) int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	now, at := reader{next: b + 1, window: 1}, len(i.readers)-1
	for j, r := range i.readers {
		if b >= r.next && b < r.next+r.window {
			now.window, at = min(2*r.window, maxWindow), j
			break
		}
	}
	copy(i.readers[1:at+1], i.readers[:at])
	i.readers[0] = now
	return now.window
}

// readAhead begins to read a window from block b in the background, unless that is
// being done or enough of it is going on.
func (i *Image) readAhead(b, window int64) {
	window = min(window, i.blocks()-b)
	if window <= 0 {
		return
	}
	select {
	case i.cache.ahead <- struct{}{}:
	default:
		return
	}
	e, mine := i.cache.claim(key{i, b})
	if !mine {
		<-i.cache.ahead
		return
	}
	batch := i.cache.claimUpTo(window, key{i, b}, e)
	i.cache.setNext(e, b+int64(len(batch)))
	i.cache.busy.Go(func() {
		i.load(b, batch)
		<-i.cache.ahead
	})
}

// scratch lends the memory for a read before it is cut into blocks.
var scratch = sync.Pool{New: func() any { return new([maxWindow * BlockSize]byte) }}

// load reads the claimed blocks from b on in one go. If that fails the first block is
// read alone and the others are given back: the failure may be none of theirs.
func (i *Image) load(b int64, batch []*entry) {
	buf := scratch.Get().(*[maxWindow * BlockSize]byte)
	defer scratch.Put(buf)
	p := buf[:min(int64(len(batch))*BlockSize, i.Size()-b*BlockSize)]
	err := recovery.ReadFull(i.under, p, b*BlockSize)
	if err != nil && len(batch) > 1 {
		for j, e := range batch[1:] {
			i.cache.drop(key{i, b + 1 + int64(j)}, e, errAgain)
		}
		batch, p = batch[:1], p[:BlockSize]
		err = recovery.ReadFull(i.under, p, b*BlockSize)
	}
	if err != nil {
		i.cache.drop(key{i, b}, batch[0], err)
		return
	}
	for _, e := range batch {
		n := min(BlockSize, len(p))
		e.data, p = bytes.Clone(p[:n]), p[n:]
		close(e.ready)
	}
}
