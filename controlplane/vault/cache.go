package vault

import (
	"container/list"
	"context"
	"errors"
	"sync"
)

// cache keeps values up to a total cost, and drops the least recently used. Callers
// that miss the same key at the same time wait for one load.
type cache[K comparable, V any] struct {
	max int64

	mu    sync.Mutex
	used  int64
	items map[K]*list.Element
	order list.List // most recently used first
}

type cacheItem[K comparable, V any] struct {
	key    K
	value  V
	cost   int64
	err    error
	loaded chan struct{} // closed when value or err is there
}

func newCache[K comparable, V any](maxCost int64) *cache[K, V] {
	return &cache[K, V]{max: maxCost, items: make(map[K]*list.Element)}
}

// get returns the cached value, or loads it. load reports the value's cost.
func (c *cache[K, V]) get(ctx context.Context, key K, load func() (V, int64, error)) (V, error) {
	for {
		item, mine := c.claim(key)
		if mine {
			c.fill(item, load)
			return item.value, item.err
		}
		select {
		case <-item.loaded:
		case <-ctx.Done():
			var none V
			return none, ctx.Err()
		}
		// Another caller's context ended its load: that is no verdict on ours.
		if !errors.Is(item.err, context.Canceled) && !errors.Is(item.err, context.DeadlineExceeded) {
			return item.value, item.err
		}
		if err := ctx.Err(); err != nil {
			return item.value, err
		}
	}
}

// peek returns the value only if it is there.
func (c *cache[K, V]) peek(key K) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.items[key]
	if e == nil {
		return v, false
	}
	item := e.Value.(*cacheItem[K, V])
	select {
	case <-item.loaded:
		c.order.MoveToFront(e)
		return item.value, item.err == nil
	default:
		return v, false
	}
}

// put stores a value that somebody has at hand.
func (c *cache[K, V]) put(key K, value V, cost int64) {
	if item, mine := c.claim(key); mine {
		c.fill(item, func() (V, int64, error) { return value, cost, nil })
	}
}

// claim finds the item, or enters a new one that the caller must fill.
func (c *cache[K, V]) claim(key K) (item *cacheItem[K, V], mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.items[key]; e != nil {
		c.order.MoveToFront(e)
		return e.Value.(*cacheItem[K, V]), false
	}
	item = &cacheItem[K, V]{key: key, loaded: make(chan struct{})}
	c.items[key] = c.order.PushFront(item)
	return item, true
}

func (c *cache[K, V]) fill(item *cacheItem[K, V], load func() (V, int64, error)) {
	value, cost, err := load()
	c.mu.Lock()
	defer c.mu.Unlock()
	item.value, item.cost, item.err = value, cost, err
	close(item.loaded)
	if err != nil {
		c.order.Remove(c.items[item.key])
		delete(c.items, item.key)
		return
	}
	c.used += cost
	c.evict()
}

// evict drops loaded items from the old end; one being loaded has no cost yet.
func (c *cache[K, V]) evict() {
	for e := c.order.Back(); e != nil && c.used > c.max; {
		item, older := e.Value.(*cacheItem[K, V]), e.Prev()
		if item.cost > 0 {
			c.used -= item.cost
			c.order.Remove(e)
			delete(c.items, item.key)
		}
		e = older
	}
}
