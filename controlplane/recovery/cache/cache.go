// Package cache keeps what was read of disks in memory, within a bound, and reads
// ahead of whoever reads in sequence. A vault answers large reads far better than
// the small ones of a booting machine.
package cache

import (
	"container/list"
	"errors"
	"sync"
)

const (
	// BlockSize is the unit of caching in bytes.
	BlockSize = 64 << 10
	// maxWindow is the most that is read in one go for a sequential reader, in blocks.
	maxWindow = 4 << 20 / BlockSize
	// aheadAtOnce is how many reads ahead may be under way.
	aheadAtOnce = 4
)

// Cache is memory shared by any number of images.
type Cache struct {
	limit int           // blocks
	ahead chan struct{} // holds one for each read ahead under way
	busy  sync.WaitGroup

	mu     sync.Mutex
	blocks map[key]*entry
	order  list.List // of key, most recently used first
}

type key struct {
	image *Image
	block int64
}

// entry is a block that is cached or being read. data and err are written before
// ready is closed and never after, so they are read without the lock, even when the
// entry has been evicted.
type entry struct {
	ready chan struct{}
	data  []byte
	err   error
	place *list.Element
	next  int64 // if positive: whoever reaches this entry has the next window read from there
}

// errAgain is what those waiting for an entry get when it was given back unread.
var errAgain = errors.New("the block was not read")

// New makes a cache of at most that many bytes, but no fewer than it takes to read
// ahead.
func New(bytes int64) *Cache {
	return &Cache{
		limit:  int(max(bytes/BlockSize, aheadAtOnce*maxWindow)),
		ahead:  make(chan struct{}, aheadAtOnce),
		blocks: map[key]*entry{},
	}
}

// Close waits for the reads ahead that are under way, so that the images below can
// be closed. The cache stays usable.
func (c *Cache) Close() { c.busy.Wait() }

// Bytes is the most that the blocks in the cache now take.
func (c *Cache) Bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(len(c.blocks)) * BlockSize
}

// claim finds the entry of a block, or makes one that the caller must load.
func (c *Cache) claim(k key) (e *entry, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.blocks[k]; e != nil {
		c.order.MoveToFront(e.place)
		return e, false
	}
	return c.insert(k), true
}

// claimUpTo claims the blocks that follow k until one is there already or they are n,
// k, whose entry is e, included.
func (c *Cache) claimUpTo(n int64, k key, e *entry) []*entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	batch := []*entry{e}
	for k.block++; int64(len(batch)) < n && c.blocks[k] == nil; k.block++ {
		batch = append(batch, c.insert(k))
	}
	return batch
}

// insert makes an entry and evicts the least recently used to make room.
func (c *Cache) insert(k key) *entry {
	e := &entry{ready: make(chan struct{})}
	e.place = c.order.PushFront(k)
	c.blocks[k] = e
	for len(c.blocks) > c.limit {
		delete(c.blocks, c.order.Remove(c.order.Back()).(key))
	}
	return e
}

// drop takes an entry out and tells those who wait for it why.
func (c *Cache) drop(k key, e *entry, err error) {
	c.mu.Lock()
	if c.blocks[k] == e {
		delete(c.blocks, k)
		c.order.Remove(e.place)
	}
	c.mu.Unlock()
	e.err = err
	close(e.ready)
}

// setNext and takeNext mark an entry as the one at which to read on, once.
func (c *Cache) setNext(e *entry, next int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.next = next
}

func (c *Cache) takeNext(e *entry) (next int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next, e.next = e.next, 0
	return next
}
