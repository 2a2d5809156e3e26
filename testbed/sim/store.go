package sim

import (
	"context"
	"iter"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
)

// cloud is the object store that all processes share, and its moods.
type cloud struct {
	*mem.Store
	mu    sync.Mutex
	rng   *rand.Rand
	mood  mood
	fresh map[string]time.Time // when each object was put
	hit   func(what string)
}

// mood is how a store fails at the moment: the chances, and how slow it is.
type mood struct {
	Fails     float64       // a call fails
	Ambiguous float64       // a put or delete is done and yet fails
	Slow      time.Duration // a call takes up to so long
	Late      time.Duration // a listing leaves out what is younger
}

func newCloud(rng *rand.Rand, hit func(string)) *cloud {
	return &cloud{Store: mem.New(), rng: rng, fresh: map[string]time.Time{}, hit: hit}
}

func (c *cloud) set(m mood) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mood = m
}

// fate is what happens to one call.
func (c *cloud) fate() (before, after bool, pause, late time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.mood
	if m.Fails > 0 {
		before = c.rng.Float64() < m.Fails
	}
	if m.Ambiguous > 0 {
		after = c.rng.Float64() < m.Ambiguous
	}
	if m.Slow > 0 {
		pause = time.Duration(c.rng.Int64N(int64(m.Slow)))
	}
	return before, after, pause, m.Late
}

// client is one process's way to the cloud.
type client struct {
	*cloud
	p *process
	// blind, where it is not nil, has this process put over what is there and see no lease
	// but its own: a mutant.
	blind map[string]bool
}

// hides reports whether a mutant does not see the key.
func (c client) hides(key string) bool {
	return c.blind != nil && strings.Contains(key, "/lease/") && !c.blind[key]
}

func passing(op, key string) error {
	return &objstore.Error{Op: op, Store: "cloud", Key: key, Class: objstore.ErrTransient}
}

// look is a call that changes nothing.
func (c client) look(ctx context.Context, op, key string, do func() error) error {
	before, _, pause, _ := c.fate()
	if err := wait(ctx, pause); err != nil {
		return err
	}
	if err := c.p.alive(); err != nil {
		return err
	}
	if before {
		c.hit("store call failed")
		return passing(op, key)
	}
	if op != "list" && c.hides(key) {
		return &objstore.Error{Op: op, Store: "cloud", Key: key, Class: objstore.ErrNotFound}
	}
	return do()
}

// change is a call that changes something.
func (c client) change(ctx context.Context, op, key string, do func() error) error {
	before, after, pause, _ := c.fate()
	if err := wait(ctx, pause/2); err != nil {
		return err
	}
	if before {
		c.hit("store call failed")
		return passing(op, key)
	}
	if err := c.p.effect(do); err != nil {
		return err
	}
	if err := wait(ctx, pause/2); err != nil {
		return err // it was done, and nobody was told
	}
	if after {
		c.hit("store call ambiguous")
		return passing(op, key)
	}
	return nil
}

// wait passes time, which ends early with the context.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c client) Put(ctx context.Context, key string, data []byte) error {
	return c.change(ctx, "put", key, func() error {
		if c.blind != nil {
			c.blind[key] = true
			_ = c.Store.Delete(context.Background(), key)
		}
		err := c.Store.Put(context.Background(), key, data)
		if err == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.fresh[key] = time.Now()
		}
		return err
	})
}

func (c client) Get(ctx context.Context, key string, off, n int64) (b []byte, err error) {
	err = c.look(ctx, "get", key, func() error {
		b, err = c.Store.Get(ctx, key, off, n)
		return err
	})
	return b, err
}

func (c client) Head(ctx context.Context, key string) (info objstore.Info, err error) {
	err = c.look(ctx, "head", key, func() error {
		info, err = c.Store.Head(ctx, key)
		return err
	})
	return info, err
}

func (c client) List(ctx context.Context, prefix string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		if err := c.look(ctx, "list", prefix, func() error { return nil }); err != nil {
			yield(objstore.Info{}, err)
			return
		}
		_, _, _, late := c.fate()
		for info, err := range c.Store.List(ctx, prefix) {
			if err == nil && late > 0 && c.young(info.Key, late) {
				c.hit("listing late")
				continue
			}
			if c.hides(info.Key) {
				continue
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

func (c client) young(key string, late time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.fresh[key]) < late
}

func (c client) Delete(ctx context.Context, key string) error {
	return c.change(ctx, "delete", key, func() error { return c.Store.Delete(context.Background(), key) })
}
