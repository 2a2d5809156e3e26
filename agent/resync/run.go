package resync

import (
	"context"
	"fmt"
	"log/slog"
	"unsafe"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

const (
	// depth is the number of reads a disk is given at once. Against dd on a disk of
	// 1.1 GB/s, one at once reached 0.74, two 1.0, four 1.1, more no more.
	depth = 4
	// buffers bounds a run's memory to 16 MiB, and how far reading runs ahead of what
	// waits: for a hash, for compression, for credit.
	buffers = 16
)

// run is one call of Run.
type run struct {
	job    Job
	hasher Hasher
	opt    Options
	log    *slog.Logger
	disks  []*disk
	out    *emitter
	meter  *meter
	bufs   chan []byte   // free read buffers
	reads  chan struct{} // tickets to read
	asks   chan struct{} // tickets to ask the hasher
}

// disk is one disk of a run.
type disk struct {
	Target
	dev   Device
	usage Usage
	want  *block.Set // what is read for its own sake
	may   *block.Set // what may be read
	pace  *pacer
}

func newRun(job Job, sink Sink, hasher Hasher, opt Options) *run {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Open == nil {
		opt.Open = openDevice
	}
	if opt.frameSize == 0 {
		opt.frameSize = frameSize
	}
	r := &run{job: job, hasher: hasher, opt: opt, log: opt.Log, meter: newMeter(job.Cursor)}
	r.out = newEmitter(job, sink, opt, r.meter)
	r.bufs, r.reads, r.asks = make(chan []byte, buffers), make(chan struct{}, depth), make(chan struct{}, asksAtOnce)
	for range buffers {
		r.bufs <- nil // made when it is needed: most repairs are small
	}
	return r
}

// aligned is n bytes of memory that O_DIRECT accepts on any disk.
func aligned(n int) []byte {
	b := make([]byte, n+block.FineGranule)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) % block.FineGranule
	return b[skip : int(skip)+n : int(skip)+n]
}

// open opens the disks that are left and finds out what of them to read.
func (r *run) open(ctx context.Context) error {
	for _, t := range r.job.Disks[r.job.first():] {
		d := &disk{Target: t}
		var err error
		if d.dev, err = r.opt.Open(t); err != nil {
			return fmt.Errorf("resync: disk %s (%s) cannot be opened: %w: attach it again, or take it out of protection", t.Path, t.ID, err)
		}
		r.disks = append(r.disks, d)
		if size, err := d.dev.Size(); err != nil {
			return fmt.Errorf("%w: disk %s (%s) had %d bytes, now its size cannot be told: %w", ErrResized, t.Path, t.ID, t.Size, err)
		} else if size != t.Size {
			return fmt.Errorf("%w: disk %s (%s) had %d bytes, now %d: it needs a new epoch", ErrResized, t.Path, t.ID, t.Size, size)
		}
		if d.usage, err = r.usage(ctx, d); err != nil {
			return fmt.Errorf("resync: disk %s (%s): %w", t.Path, t.ID, err)
		}
		d.want, d.may = coverage(t, d.usage.Free)
		r.resume(d)
		d.pace = newPacer(r.opt, d, r.log)
		r.log.Info("resync disk planned", "disk", d.Path, "id", d.ID, "method", r.job.Method,
			"bytes", d.want.Bytes(), "free", d.may.Bytes()-d.want.Bytes(), "whole", d.usage.Whole)
	}
	return nil
}

// usage is what may be left out. A dirty map is small, and read to the last block: what
// it leaves out would stay different from the disk without anybody's knowing, until the
// file system takes it for a file's and a proof finds it.
func (r *run) usage(ctx context.Context, d *disk) (Usage, error) {
	if r.job.Method == frame.MethodRanges {
		return Usage{Layout: wholeDisk}, nil
	}
	return d.dev.Usage(ctx)
}

// resume takes what lies before the cursor out of the plan. If the file systems that were left
// out there are not as they were, the disk begins anew and is read whole: rare, so
// certainty costs little.
func (r *run) resume(d *disk) {
	c, done := r.job.Cursor, int64(0)
	if c.Disk == d.ID {
		done = c.Off
		if c.Layout != d.usage.Layout {
			d.usage = Usage{Layout: wholeDisk}
			d.want = d.may.Clone()
			if c.Layout != wholeDisk {
				done = 0
			}
		}
	}
	total := d.want.Bytes()
	d.want.Remove(block.Extent{Len: done})
	r.meter.plan(total, total-d.want.Bytes())
}

func (r *run) close() {
	for _, d := range r.disks {
		d.dev.Close()
	}
}

// all reads every disk, with sending and reporting beside it.
func (r *run) all(ctx context.Context) error {
	stop := r.meter.report(r.opt.Progress)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.out.sendAll(ctx) })
	g.Go(func() error {
		for _, d := range r.disks {
			if err := r.disk(ctx, d); err != nil {
				return err
			}
		}
		return r.out.finish(ctx)
	})
	return g.Wait()
}

// disk settles one disk. Where the file systems changed while it was read, what was
// left out on their word is read as well.
func (r *run) disk(ctx context.Context, d *disk) error {
	r.meter.begin(d)
	if err := r.pass(ctx, d); err != nil {
		return err
	}
	now, err := d.dev.Layout()
	if err == nil && now == d.usage.Layout || d.usage.Layout == wholeDisk {
		return nil
	}
	r.log.Warn("file systems changed during the copy: free space is read as well",
		"disk", d.Path, "id", d.ID, "before", d.usage.Layout, "after", now, "err", err)
	d.want, d.usage = minus(d.may, d.want), Usage{Layout: wholeDisk}
	r.meter.plan(d.want.Bytes(), 0)
	return r.pass(ctx, d)
}

// pass reads d.want once. Reads are issued ahead and finish in any order; what they
// found is taken up in the order of offsets, so that a cursor is one number.
func (r *run) pass(ctx context.Context, d *disk) error {
	g, ctx := errgroup.WithContext(ctx)
	ctx, stopPacing := context.WithCancel(ctx)
	order := make(chan *chunk, buffers)
	g.Go(func() error { return d.pace.run(ctx) })
	g.Go(func() error { return r.issue(ctx, g, d, order) })
	g.Go(func() error {
		defer stopPacing()
		return r.collect(ctx, d, order)
	})
	return g.Wait()
}

// issue starts the reads, as fast as buffers come back.
func (r *run) issue(ctx context.Context, g *errgroup.Group, d *disk, order chan<- *chunk) error {
	defer close(order)
	src := chunks(d.want, d.may)
	if r.job.Method == frame.MethodHash {
		src = r.asked(ctx, g, d, src)
	}
	for c := range src {
		select {
		case buf := <-r.bufs:
			if buf == nil {
				buf = aligned(chunkSize)
			}
			c.data = buf[:c.span.Len]
		case <-ctx.Done():
			return ctx.Err()
		}
		order <- c // never blocks: it holds as many as there are buffers
		g.Go(func() error {
			c.done <- r.examine(ctx, d, c)
			return nil // collect reports it, in order
		})
	}
	return nil
}

// examine reads a chunk and finds out what of it must travel.
func (r *run) examine(ctx context.Context, d *disk, c *chunk) error {
	if err := r.read(ctx, d, c); err != nil {
		return err
	}
	if r.job.Method == frame.MethodHash {
		return r.compare(ctx, d, c)
	}
	c.split(d.Fresh && r.job.Method == frame.MethodFull)
	return nil
}

// read fills a chunk at the disk's pace.
func (r *run) read(ctx context.Context, d *disk, c *chunk) error {
	select {
	case r.reads <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.reads }()
	for rest := c.span; !rest.Empty(); {
		part := rest.Intersect(block.Extent{Off: rest.Off, Len: d.pace.grain()})
		if err := d.pace.wait(ctx, part); err != nil {
			return err
		}
		if err := read(d, c.at(part), part.Off); err != nil {
			return err
		}
		rest = block.Extent{Off: part.End(), Len: rest.End() - part.End()}
	}
	return nil
}

// collect hands finished chunks on, in order.
func (r *run) collect(ctx context.Context, d *disk, order <-chan *chunk) error {
	for c := range order {
		var err error
		select {
		case err = <-c.done:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if err := r.out.add(ctx, d, c); err != nil {
			return err
		}
		r.bufs <- c.data[:chunkSize]
	}
	return ctx.Err()
}

func (r *run) result() Result {
	res := r.meter.totals()
	res.Frames = r.out.next - 1
	for _, d := range r.disks {
		if d.usage.Free != nil {
			res.Free += d.may.Bytes() - d.want.Bytes()
		}
	}
	return res
}
