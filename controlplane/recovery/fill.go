package recovery

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// checkpointEvery is how much time may lie between two notes of how far a fill has
// come: what an interruption can cost.
const checkpointEvery = 10 * time.Second

// fill is one target being written.
type fill struct {
	*plan
	work  work
	file  *os.File
	side  *Sidecar
	meter *meter

	written atomic.Int64 // bytes

	mu      sync.Mutex
	flying  []int64 // offsets of the pieces and lots being written
	reached int64   // where the next piece begins at the earliest
	next    time.Time
	noting  bool // a checkpoint is under way
}

// take notes that what begins at off is being written. It is taken in that order;
// reached is where whatever is taken next begins at the earliest.
func (f *fill) take(off, reached int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flying = append(f.flying, off)
	f.reached = reached
}

// landed notes that it is. Every checkpointEvery it brings the note in the sidecar
// up to date, so that an interrupted fill goes on from there.
func (f *fill) landed(off int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.Index(f.flying, off)
	f.flying = slices.Delete(f.flying, i, i+1)
	if f.act != actFill || f.noting || time.Now().Before(f.next) {
		return nil
	}
	done := f.reached
	if len(f.flying) > 0 {
		done = slices.Min(f.flying)
	}
	f.noting = true
	f.mu.Unlock() // the other workers go on meanwhile
	err := f.checkpoint(done)
	f.mu.Lock()
	f.noting, f.next = false, time.Now().Add(checkpointEvery)
	return err
}

// checkpoint makes everything before done durable, then says so.
func (f *fill) checkpoint(done int64) error {
	if err := f.file.Sync(); err != nil {
		return err
	}
	side := *f.side
	side.Done = done
	return side.save(f.target.Path)
}

// write brings one piece of the target up to date, using buf for its data.
func (f *fill) write(ctx context.Context, p Extent, buf []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.Zero {
		return punch(f.file, p.Off, p.Len)
	}
	b := buf[:p.Len]
	if err := ReadFull(f.work.image, b, p.Off); err != nil {
		return fmt.Errorf("reading %d bytes at %d from the vault: %w", p.Len, p.Off, err)
	}
	written, err := f.put(b, p.Off)
	if err == nil {
		startWriteback(f.file, p.Off, p.Len)
	}
	f.written.Add(written)
	f.meter.add(p.Len, written)
	return err
}

// scatter writes a lot to its places.
func (f *fill) scatter(ctx context.Context, l Lot) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var written, end int64
	err := l.Read(ctx, func(off int64, p []byte) error {
		n, err := f.put(p, off)
		written, end = written+n, off+int64(len(p))
		return err
	})
	if err != nil {
		return err
	}
	if span := end - l.Off(); span <= 2*l.Len() { // what is all over the disk is written out with its neighbours
		startWriteback(f.file, l.Off(), span)
	}
	f.written.Add(written)
	f.meter.add(l.Len(), written)
	return nil
}

// put writes what is not zero of b, whose place begins at off, and says how much it was.
func (f *fill) put(b []byte, off int64) (written int64, err error) {
	for r := range runs(b, off) {
		if r.Zero {
			if f.work.holes {
				if err := punch(f.file, r.Off, r.Len); err != nil {
					return written, err
				}
			}
			continue
		}
		if _, err := f.file.WriteAt(b[r.Off-off:r.End()-off], r.Off); err != nil {
			return written, err
		}
		written += r.Len
	}
	return written, nil
}

// runs splits b, which begins at off, into stretches of zero grains and of others.
func runs(b []byte, off int64) func(yield func(Extent) bool) {
	return func(yield func(Extent) bool) {
		run := Extent{Off: off}
		for len(b) > 0 {
			n := min(grain-off%grain, int64(len(b)))
			next := Extent{Off: off, Len: n, Zero: bytes.Equal(b[:n], zeros[:n])}
			if !run.join(next) {
				if !yield(run) {
					return
				}
				run = next
			}
			b, off = b[n:], off+n
		}
		if run.Len > 0 {
			yield(run)
		}
	}
}
