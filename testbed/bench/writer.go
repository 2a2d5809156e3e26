package main

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// writer writes to a device at a steady rate, past the page cache, at random places.
type writer struct {
	f    *os.File
	size int64
	data pool
	r    *rand.Rand
}

// chunk is the size of its writes: what the kernel makes of a busy file system's
// write-back, between 4 KiB and 1 MiB.
const chunk = 128 * kib

func newWriter(device string, data pool) (*writer, error) {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	return &writer{f: f, size: size, data: data, r: rand.New(rand.NewPCG(3, 4))}, err
}

func (w *writer) close() error { return w.f.Close() }

// fill writes all of the device once, in order.
func (w *writer) fill() error {
	for off := int64(0); off < w.size; off += mib {
		n := min(mib, w.size-off)
		if _, err := w.f.WriteAt(w.data.piece(w.r, mib)[:n], off); err != nil {
			return err
		}
	}
	return w.f.Sync()
}

// write writes this many bytes a second for so long. It returns how many it wrote: what
// the device does not take in time is not made up for beyond a tenth of a second.
func (w *writer) write(ctx context.Context, perSecond float64, length time.Duration) (written int64, err error) {
	const slack = 100 * time.Millisecond
	start, due := time.Now(), 0.0
	last := start
	for ctx.Err() == nil {
		now := time.Now()
		if now.Sub(start) >= length {
			return written, nil
		}
		due += perSecond * now.Sub(last).Seconds()
		last = now
		due = min(due, perSecond*slack.Seconds()+chunk)
		if due < chunk {
			time.Sleep(time.Millisecond)
			continue
		}
		if err := w.one(chunk); err != nil {
			return written, err
		}
		written += chunk
		due -= chunk
	}
	return written, errors.Join(context.Cause(ctx))
}

// one writes one piece of n bytes somewhere.
func (w *writer) one(n int) error {
	_, err := w.f.WriteAt(w.data.piece(w.r, n), w.r.Int64N(w.size/int64(n))*int64(n))
	return err
}

// reseed makes it write other things at other places than before.
func (w *writer) reseed(seed uint64) { w.r = rand.New(rand.NewPCG(seed, 5)) }

// fetch writes pieces somewhere until p is full of what was written: a guest's writes and
// the copy that is taken of each.
func (w *writer) fetch(p []byte) error {
	for ; len(p) >= chunk; p = p[chunk:] {
		piece := w.data.piece(w.r, chunk)
		if _, err := w.f.WriteAt(piece, w.r.Int64N(w.size/chunk)*chunk); err != nil {
			return err
		}
		copy(p, piece)
	}
	return nil
}
