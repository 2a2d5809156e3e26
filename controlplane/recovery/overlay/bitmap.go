package overlay

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"
)

// pageBytes is the unit in which the map is written, in bytes.
const (
	pageBytes = 4096
	pageWords = pageBytes / 8
)

// bitmap is the map in memory: one bit a block, set for good once it is set. Any
// number of goroutines may read and set it.
type bitmap struct {
	blocks int64
	words  []atomic.Uint64
	dirty  []atomic.Bool // pages with bits that are not on disk yet
}

func newBitmap(size int64) *bitmap {
	pages := mapBytes(size) / pageBytes
	return &bitmap{
		blocks: blocksOf(size),
		words:  make([]atomic.Uint64, pages*pageWords),
		dirty:  make([]atomic.Bool, pages),
	}
}

func (m *bitmap) has(block int64) bool {
	return m.words[block/64].Load()&(1<<(block%64)) != 0
}

// set sets the bits of blocks [from, to).
func (m *bitmap) set(from, to int64) {
	for from < to {
		n := min(64-from%64, to-from)
		mask := (^uint64(0) >> (64 - n)) << (from % 64)
		m.words[from/64].Or(mask)
		m.dirty[from/64/pageWords].Store(true)
		from += n
	}
}

// run is the end of the stretch of blocks from `from`, at most up to `to`, that are
// all as the first is.
func (m *bitmap) run(from, to int64) (end int64, set bool) {
	set = m.has(from)
	for at := from; at < to; {
		w := m.words[at/64].Load()
		if set {
			w = ^w
		}
		if w >>= at % 64; w != 0 {
			return min(at+int64(bits.TrailingZeros64(w)), to), set
		}
		at += 64 - at%64
	}
	return to, set
}

// page copies a page as it lies on disk.
func (m *bitmap) page(i int) []byte {
	b := make([]byte, pageBytes)
	for j := range pageWords {
		binary.LittleEndian.PutUint64(b[8*j:], m.words[i*pageWords+j].Load())
	}
	return b
}

// load takes a page from disk.
func (m *bitmap) load(i int, b []byte) {
	for j := range pageWords {
		m.words[i*pageWords+j].Store(binary.LittleEndian.Uint64(b[8*j:]))
	}
}
