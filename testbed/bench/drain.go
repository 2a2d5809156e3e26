package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// drain is a protected machine's agent without what comes behind the frame: it captures
// a disk, cuts the writes into frames as the agent does, and drops them.
type drain struct {
	source capture.Source
	lost   atomic.Int64 // how often the ring overflowed
	stop   context.CancelFunc
	done   chan error
}

// When the agent closes a frame, and how often it looks at the ring.
const (
	frameSize = 1 << 20
	frameAge  = 200 * time.Millisecond
	pollEvery = 2 * time.Millisecond
	pollSlack = 5
)

// newDrain begins to capture a disk: only its dirty map, or data too.
func newDrain(ctx context.Context, l *lab.Lab, device string, data bool) (*drain, error) {
	source, _, err := capture.Open(capture.Options{Instance: l.Instance("bench")})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	d := &drain{source: source, stop: cancel, done: make(chan error, 1)}
	disk, err := capture.Resolve(device)
	if err == nil {
		err = source.Track(ctx, disk)
	}
	if err == nil && data {
		_, err = source.Arm(ctx)
	}
	if err != nil {
		cancel()
		return nil, errors.Join(err, source.Remove())
	}
	go func() {
		runtime.LockOSThread() // as in the agent, the thread that empties the ring has priority
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -10)
		d.done <- d.run(ctx, data)
	}()
	return d, nil
}

// end takes the capture out of the kernel.
func (d *drain) end() error {
	d.stop()
	return errors.Join(<-d.done, d.source.Remove())
}

func (d *drain) run(ctx context.Context, data bool) error {
	if !data {
		<-ctx.Done()
		return nil
	}
	c := cutter{source: d.source, builder: frame.NewBuilder(block.NewMachineID())}
	c.open()
	h, err := d.source.Health()
	if err != nil {
		return err
	}
	pauses, taken := capture.Pauses{Least: pollEvery, Most: pollSlack * pollEvery}, int64(0)
	for ctx.Err() == nil {
		more, lost, err := c.take()
		if err != nil {
			return fmt.Errorf("reading the ring: %w", err)
		}
		switch {
		case lost:
			d.lost.Add(1)
			if _, err := d.source.Arm(ctx); err != nil {
				return err
			}
		case !more:
			time.Sleep(pauses.Next(c.taken-taken, h.RingBytes))
			taken = c.taken
		}
	}
	return nil
}

// cutter makes frames out of records.
type cutter struct {
	source  capture.Source
	builder *frame.Builder
	raw     []byte
	seq     block.Seq
	pos     uint64
	opened  time.Time
	taken   int64 // bytes, in all
}

func (c *cutter) open() {
	c.seq++
	c.opened = time.Now()
	c.builder.Reset(frame.KindLog, 1, c.seq, c.opened)
}

// take moves records from the ring into the frame, and cuts that when it is due. more: the
// ring holds what had no room, or what was there before take began; lost: it ends at a loss.
func (c *cutter) take() (more, lost bool, err error) {
	full := false
	var failed error
	n, lost, err := c.source.Poll(func(r capture.Record) bool {
		if full = !c.builder.Room(len(r.Data)) || c.builder.Len() >= frameSize; full {
			return false
		}
		c.pos = r.Pos
		c.taken += int64(len(r.Data))
		failed = c.builder.Add(r.Disk, r.Op, r.Extent, r.Data)
		return failed == nil
	})
	lost = lost && n == 0
	if err := errors.Join(err, failed); err != nil {
		return false, lost, err
	}
	more = full || n > 0 && c.source.Behind()
	if !full && (c.builder.Records() == 0 || time.Since(c.opened) < frameAge) {
		return more, lost, nil
	}
	if c.raw, err = c.builder.Append(c.raw[:0], c.seq, time.Now(), frame.CompressAuto); err != nil {
		return more, lost, err
	}
	c.open()
	return more, lost, c.source.Advance(c.pos)
}
