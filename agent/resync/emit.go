package resync

import (
	"context"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

const (
	// A frame is closed when it holds this much, looked at between chunks: large
	// enough that its overhead vanishes, small enough that a cut repeats little.
	frameSize    = 2 << 20
	frameExtents = 16 << 10
	// frameAge closes a frame that fills slowly, so that the cursor moves on.
	frameAge = time.Second
)

// emitter makes frames of what the disks gave and sends them in order. Building and
// sending overlap: one frame is packed while another travels.
type emitter struct {
	job    Job
	sink   Sink
	opt    Options
	meter  *meter
	build  *frame.Builder
	opened time.Time
	next   uint64 // number of the frame being built
	cursor Cursor // what is read and handed over so far
	queue  chan parcel
	spare  chan []byte
}

// parcel is a frame on its way.
type parcel struct {
	raw    []byte
	cursor Cursor
	bytes  int64 // what the frame settles: its payload and its zeros
}

func newEmitter(job Job, sink Sink, opt Options, m *meter) *emitter {
	e := &emitter{job: job, sink: sink, opt: opt, meter: m, build: frame.NewBuilder(job.Machine), next: job.FirstFrame, cursor: job.Cursor}
	e.queue, e.spare = make(chan parcel, 1), make(chan []byte, 3)
	for range cap(e.spare) {
		e.spare <- nil
	}
	e.reset()
	return e
}

func (e *emitter) reset() {
	e.opened = time.Now()
	e.build.Reset(frame.KindBase, e.job.Epoch, block.Seq(e.next), e.opened)
}

// add takes up a chunk. Frames end between chunks only, so that the cursor is exact.
func (e *emitter) add(ctx context.Context, d *disk, c *chunk) error {
	for _, p := range c.send {
		if e.build.Records() == 0 {
			e.reset()
		}
		op, data := frame.OpWrite, []byte(nil)
		if p.zero {
			op = frame.OpZero
		} else {
			data = c.at(p.Extent)
		}
		if err := e.build.Add(d.ID, op, p.Extent, data); err != nil {
			return fmt.Errorf("resync: base frame %d: %w", e.next, err)
		}
	}
	e.meter.examined(c)
	e.cursor = Cursor{Disk: d.ID, Off: c.span.End(), Frame: e.next - 1, Layout: d.usage.Layout}
	if e.build.Records() == 0 {
		e.meter.reached(e.cursor) // nothing is held back: the frames made so far cover it
		return nil
	}
	if e.build.Len() >= e.opt.frameSize || e.build.Records() >= frameExtents || time.Since(e.opened) >= frameAge {
		return e.flush(ctx)
	}
	return nil
}

// flush closes the frame being built and queues it.
func (e *emitter) flush(ctx context.Context) error {
	var buf []byte
	select {
	case buf = <-e.spare:
	case <-ctx.Done():
		return ctx.Err()
	}
	payload := int64(e.build.Len())
	raw, err := e.build.Append(buf[:0], block.Seq(e.next), time.Now(), e.opt.Compression)
	if err != nil {
		return fmt.Errorf("resync: base frame %d: %w", e.next, err)
	}
	e.cursor.Frame = e.next
	e.meter.made(payload, int64(len(raw)), e.cursor)
	e.next++
	e.reset()
	select {
	case e.queue <- parcel{raw: raw, cursor: e.cursor, bytes: e.meter.held()}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish sends what is left and ends sendAll.
func (e *emitter) finish(ctx context.Context) error {
	defer close(e.queue)
	if e.build.Records() == 0 {
		return nil
	}
	return e.flush(ctx)
}

// sendAll gives the frames to the sink until finish, or until the context ends.
func (e *emitter) sendAll(ctx context.Context) error {
	for {
		select {
		case p, more := <-e.queue:
			if !more {
				return nil
			}
			if err := e.sink.SendBase(ctx, p.raw, p.cursor.Frame, p.cursor); err != nil {
				return fmt.Errorf("resync: sending base frame %d: %w", p.cursor.Frame, err)
			}
			e.meter.sent(p.bytes)
			e.spare <- p.raw
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
