package pipeline

import (
	"context"
	"sync"
)

// barriers lets those who wait for writes in flight at the same time wait for one
// barrier: each holds the disk's writers up for a moment.
type barriers struct {
	ctx  context.Context // of the proof that all callers belong to
	wait func(context.Context) error

	turn chan struct{} // of one place: the barrier under way
	mu   sync.Mutex
	next *barrier // not begun yet: who comes now may share it; nil if there is none
}

func newBarriers(ctx context.Context, wait func(context.Context) error) *barriers {
	return &barriers{ctx: ctx, wait: wait, turn: make(chan struct{}, 1)}
}

type barrier struct {
	done chan struct{}
	err  error
}

// pass returns when a barrier that began after the call has ended.
func (b *barriers) pass(ctx context.Context) error {
	b.mu.Lock()
	mine := b.next
	if mine == nil {
		mine = &barrier{done: make(chan struct{})}
		b.next = mine
		go b.run(mine)
	}
	b.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *barriers) run(mine *barrier) {
	b.turn <- struct{}{}
	defer func() { <-b.turn }()
	b.mu.Lock()
	b.next = nil // it begins: who comes now needs the one after
	b.mu.Unlock()
	mine.err = b.wait(b.ctx)
	close(mine.done)
}
