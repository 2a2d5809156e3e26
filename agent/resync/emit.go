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
	// builders bounds the frames that exist at once: one is filled, the others are
	// packed, each by a processor of its own, or travel. Packing is most of what a copy
	// costs (3.7 of 5.2 CPU-s/GiB), so one processor alone would set the copy's pace.
	builders = 4
)

// emitter makes frames of what the disks gave and sends them in order. Filling, packing
// and sending overlap.
type emitter struct {
	job    Job
	sink   Sink
	opt    Options
	meter  *meter
	build  *frame.Builder // of the frame being filled
	opened time.Time
	next   uint64 // number of the frame being filled
	cursor Cursor // what is read and handed over so far
	queue  chan *parcel
	idle   chan *frame.Builder // a nil one is made when it is needed: most repairs are small
}

// parcel is a frame on its way.
type parcel struct {
	build  *frame.Builder // whose memory the frame lies in
	cursor Cursor
	bytes  int64 // what the frame settles: its payload and its zeros
	packed chan struct{}
	raw    []byte // once packed
	err    error
}

func newEmitter(job Job, sink Sink, opt Options, m *meter) *emitter {
	e := &emitter{job: job, sink: sink, opt: opt, meter: m, build: frame.NewBuilder(job.Machine), next: job.FirstFrame, cursor: job.Cursor}
	e.queue, e.idle = make(chan *parcel, builders), make(chan *frame.Builder, builders)
	for range builders - 1 {
		e.idle <- nil
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

// flush has the frame being filled packed and queues it.
func (e *emitter) flush(ctx context.Context) error {
	e.cursor.Frame = e.next
	e.meter.made(int64(e.build.Len()), e.cursor)
	p := &parcel{build: e.build, cursor: e.cursor, bytes: e.meter.held(), packed: make(chan struct{})}
	go p.pack(time.Now(), e.opt.Compression)
	e.queue <- p // never blocks: it holds as many as there are builders
	select {
	case e.build = <-e.idle:
	case <-ctx.Done():
		return ctx.Err()
	}
	if e.build == nil {
		e.build = frame.NewBuilder(e.job.Machine)
	}
	e.next++
	e.reset()
	return nil
}

func (p *parcel) pack(closed time.Time, c frame.Compression) {
	defer close(p.packed)
	p.raw, p.err = p.build.Close(block.Seq(p.cursor.Frame), closed, c)
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
			if err := e.send(ctx, p); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *emitter) send(ctx context.Context, p *parcel) error {
	<-p.packed
	if p.err != nil {
		return fmt.Errorf("resync: base frame %d: %w", p.cursor.Frame, p.err)
	}
	if err := e.sink.SendBase(ctx, p.raw, p.cursor.Frame, p.cursor); err != nil {
		return fmt.Errorf("resync: sending base frame %d: %w", p.cursor.Frame, err)
	}
	e.meter.sent(p.bytes, int64(len(p.raw)))
	e.idle <- p.build
	return nil
}
