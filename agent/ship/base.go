package ship

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/understudy-dr/understudy/pkg/block"
)

// ErrBaseOrder says that a base frame is not the next one. What was handed over before
// is on its way and cannot be taken back: flush, and go on behind what is spooled.
var ErrBaseOrder = errors.New("ship: not the next base frame")

// baseQueue holds base frames from SendBase until they are sent.
//
// It forgets all of them with each session. What the relay has spooled by then, its
// Welcome says exactly, and the copy makes the rest again: the same stretch of disk
// may come out cut differently, so that a frame sent from memory and one made again
// under the same number must never meet.
type baseQueue struct {
	limit int64

	mu      sync.Mutex
	known   bool // a relay has said where it is
	epoch   block.Epoch
	next    uint64 // the number SendBase must come with
	spooled uint64 // of epoch
	frames  [][]byte
	bytes   int64
	spare   [][]byte // memory of frames that were sent
	changed chan struct{}
}

func newBaseQueue(limit int64) *baseQueue {
	return &baseQueue{limit: limit, changed: make(chan struct{})}
}

// signal wakes everybody who waits. mu is held.
func (q *baseQueue) signal() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// until waits until cond, called with mu held, is true. A caller whose context has
// ended changes nothing any more: a copy that was stopped must not put a frame in
// behind the reset that stopped it.
func (q *baseQueue) until(ctx context.Context, cond func() (bool, error)) error {
	for {
		q.mu.Lock()
		var ok bool
		err := context.Cause(ctx)
		if err == nil {
			ok, err = cond()
		}
		changed := q.changed
		q.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// pause forgets everything and lets nobody in until reset: a copy that OnWelcome has
// begin again must not put its first frames in before the queue knows their numbers.
func (q *baseQueue) pause() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.known, q.frames, q.bytes = false, nil, 0
	q.signal()
}

// reset begins a session: nothing is queued, and the relay has n frames of epoch.
func (q *baseQueue) reset(epoch block.Epoch, n uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.known, q.epoch, q.next, q.spooled = true, epoch, n+1, n
	q.frames, q.bytes = nil, 0
	q.signal()
}

// push queues a copy of frame n of an epoch when there is a session and room.
func (q *baseQueue) push(ctx context.Context, epoch block.Epoch, n uint64, raw []byte) error {
	return q.until(ctx, func() (bool, error) {
		if !q.known {
			return false, nil
		}
		begins := epoch > q.epoch && n == 1
		if !begins && (epoch != q.epoch || n != q.next) {
			return false, fmt.Errorf("%w: number %d of epoch %d was given, %d of epoch %d is next and %d are spooled", ErrBaseOrder, n, epoch, q.next, q.epoch, q.spooled)
		}
		if q.bytes > 0 && q.bytes+int64(len(raw)) > q.limit {
			return false, nil
		}
		if begins {
			q.epoch, q.spooled = epoch, 0
		}
		q.next = n + 1
		q.frames = append(q.frames, append(q.memory(), raw...))
		q.bytes += int64(len(raw))
		q.signal()
		return true, nil
	})
}

// memory is an empty buffer, used before if possible. mu is held.
func (q *baseQueue) memory() []byte {
	k := len(q.spare)
	if k == 0 {
		return nil
	}
	buf := q.spare[k-1]
	q.spare = q.spare[:k-1]
	return buf[:0]
}

// take waits for the next frame to send.
func (q *baseQueue) take(ctx context.Context) (raw []byte, err error) {
	err = q.until(ctx, func() (bool, error) {
		if len(q.frames) == 0 {
			return false, nil
		}
		raw, q.frames = q.frames[0], q.frames[1:]
		q.bytes -= int64(len(raw))
		q.signal()
		return true, nil
	})
	return raw, err
}

// sent gives a frame's memory back.
func (q *baseQueue) sent(raw []byte) {
	const few = 4
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.spare) < few {
		q.spare = append(q.spare, raw)
	}
}

// acked notes what the relay has spooled.
func (q *baseQueue) acked(epoch block.Epoch, n uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if epoch == q.epoch && n > q.spooled {
		q.spooled = n
		q.signal()
	}
}

// waiting waits until there is something to send.
func (q *baseQueue) waiting(ctx context.Context) error {
	return q.until(ctx, func() (bool, error) { return len(q.frames) > 0, nil })
}

// flushed waits until everything is spooled.
func (q *baseQueue) flushed(ctx context.Context) error {
	return q.until(ctx, func() (bool, error) { return q.known && q.spooled+1 >= q.next, nil })
}

func (q *baseQueue) size() (frames int, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.frames), q.bytes
}
