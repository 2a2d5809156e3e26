package ship

import (
	"context"
	"slices"
	"sync"

	"github.com/understudy-dr/understudy/pkg/block"
)

// baseFrame is one that the relay has not acknowledged as spooled.
type baseFrame struct {
	epoch block.Epoch
	n     uint64
	raw   []byte
}

func (f baseFrame) upTo(epoch block.Epoch, n uint64) bool {
	return f.epoch < epoch || f.epoch == epoch && f.n <= n
}

// baseQueue keeps base frames until they are spooled: they exist nowhere else.
type baseQueue struct {
	limit int64

	mu      sync.Mutex
	frames  []baseFrame
	sent    int // of frames, on the present channel
	bytes   int64
	spare   [][]byte // of frames that were acknowledged
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

// until waits until cond, called with mu held, is true.
func (q *baseQueue) until(ctx context.Context, cond func() bool) error {
	for {
		q.mu.Lock()
		ok, changed := cond(), q.changed
		q.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (q *baseQueue) push(ctx context.Context, epoch block.Epoch, n uint64, raw []byte) error {
	return q.until(ctx, func() bool {
		if q.bytes > 0 && q.bytes+int64(len(raw)) > q.limit {
			return false
		}
		var buf []byte
		if k := len(q.spare); k > 0 {
			buf, q.spare = q.spare[k-1], q.spare[:k-1]
		}
		q.frames = append(q.frames, baseFrame{epoch, n, append(buf[:0], raw...)})
		q.bytes += int64(len(raw))
		q.signal()
		return true
	})
}

// rewind prepares a new channel: what the relay has is dropped, the rest is sent again.
func (q *baseQueue) rewind(epoch block.Epoch, spooled uint64) {
	q.mu.Lock()
	q.sent = 0
	q.mu.Unlock()
	q.spooled(epoch, spooled)
}

// spooled drops frames the relay has.
func (q *baseQueue) spooled(epoch block.Epoch, n uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	k := 0
	for k < len(q.frames) && q.frames[k].upTo(epoch, n) {
		q.bytes -= int64(len(q.frames[k].raw))
		// A frame that is not sent was acknowledged on an earlier channel; one that is
		// being sent now (k == sent) is not acknowledged yet.
		q.spare = append(q.spare, q.frames[k].raw)
		k++
	}
	if k == 0 {
		return
	}
	q.frames = slices.Delete(q.frames, 0, k)
	q.sent = max(0, q.sent-k)
	q.spare = q.spare[:min(len(q.spare), 4)]
	q.signal()
}

// clear forgets everything.
func (q *baseQueue) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.frames, q.sent, q.bytes = nil, 0, 0
	q.signal()
}

// next waits for a frame to send and counts it as sent.
func (q *baseQueue) next(ctx context.Context) (raw []byte, err error) {
	err = q.until(ctx, func() bool {
		if q.sent >= len(q.frames) {
			return false
		}
		raw = q.frames[q.sent].raw
		q.sent++
		return true
	})
	return raw, err
}

// waiting waits until there is something to send.
func (q *baseQueue) waiting(ctx context.Context) error {
	return q.until(ctx, func() bool { return len(q.frames) > 0 })
}

// drained waits until everything is spooled.
func (q *baseQueue) drained(ctx context.Context) error {
	return q.until(ctx, func() bool { return len(q.frames) == 0 })
}

func (q *baseQueue) size() (frames int, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.frames), q.bytes
}
