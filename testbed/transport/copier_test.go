package transport

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/understudy-dr/understudy/agent/ship"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// copier makes the base of epoch 1 like the pipeline does: from behind what each
// Welcome says, and the mark when all is spooled.
type copier struct {
	t      testing.TB
	j      *journal
	frames uint64
	client atomic.Pointer[ship.Client]
	done   atomic.Bool

	mu   sync.Mutex
	stop context.CancelFunc
}

func newCopier(t testing.TB, j *journal, frames uint64) *copier {
	c := &copier{t: t, j: j, frames: frames, stop: func() {}}
	t.Cleanup(func() { c.mu.Lock(); defer c.mu.Unlock(); c.stop() })
	return c
}

func (c *copier) finished() bool { return c.done.Load() }

func (c *copier) welcome(_ context.Context, w wire.Welcome) (block.Seq, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop()
	if c.client.Load() == nil {
		return 0, errors.New("not ready")
	}
	if !c.finished() {
		var ctx context.Context
		ctx, c.stop = context.WithCancel(context.Background())
		go c.copy(ctx, w.SpooledBase)
	}
	return w.Spooled, nil
}

func (c *copier) copy(ctx context.Context, n uint64) {
	client := c.client.Load()
	for n++; n <= c.frames; n++ {
		if err := client.SendBase(ctx, c.j.base(n, 4096), n); err != nil {
			return
		}
	}
	if client.FlushBase(ctx) == nil && !c.done.Swap(true) {
		c.j.complete(c.frames)
	}
}
