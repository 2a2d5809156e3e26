package pipeline

import (
	"context"
	"errors"
	"fmt"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/resync"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// errUnsteady ends the tries of a proof: writes may have gone by unseen.
var errUnsteady = errors.New("pipeline: the log is interrupted")

// witness tells a proof what is written meanwhile; see agent/resync.
type witness struct {
	p        *Pipeline
	barriers *barriers
}

// witness of the writes to one disk, for as long as ctx.
func (p *Pipeline) witness(ctx context.Context, disk block.DiskID) witness {
	return witness{p, newBarriers(ctx, func(ctx context.Context) error { return p.Source.Barrier(ctx, disk) })}
}

// watch notes the writes to a stretch of a disk. All but Settle and Close is the
// consumer's.
type watch struct {
	p       *Pipeline
	disk    block.DiskID
	written notes
	// settling: the boundary is wanted, behind everything that was in the ring when the
	// drains were counted.
	settling bool
	drains   uint64
	at       chan block.Position // the boundary, once
	broken   chan struct{}       // closed when a doubt arises
	over     bool                // the consumer notes no more; for Settle and Close
}

// Watch implements resync.Witness. It notes before it waits for what is in flight: a
// write may only be noted too early, never too late.
func (s witness) Watch(ctx context.Context, disk block.DiskID, within block.Extent) (resync.Watch, error) {
	w := &watch{p: s.p, disk: disk, written: newNotes(within), at: make(chan block.Position, 1), broken: make(chan struct{})}
	err := s.p.call(ctx, func() error {
		if ctx.Err() != nil || s.p.phase != desired.PhaseSteady || s.p.doubt != nil {
			return errUnsteady
		}
		s.p.watches = append(s.p.watches, w)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.barriers.pass(ctx); err != nil {
		w.Close()
		return nil, fmt.Errorf("waiting for writes in flight: %w", err)
	}
	return w, nil
}

// Settle implements resync.Watch.
func (w *watch) Settle(ctx context.Context) (block.Position, *block.Set, error) {
	w.p.post(ctx, func() error { w.settling, w.drains = true, w.p.drains; return nil })
	select {
	case at := <-w.at:
		w.over = true
		return at, w.written.set(), w.committed(ctx, at)
	case <-w.broken:
		return block.Position{}, nil, errUnsteady
	case <-ctx.Done():
		return block.Position{}, nil, ctx.Err()
	}
}

// committed waits until the vault has the boundary. With a doubt it may never come.
func (w *watch) committed(ctx context.Context, at block.Position) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-w.broken:
			cancel()
		case <-ctx.Done():
		}
	}()
	return w.p.waitCommitted(ctx, at.Seq)
}

// Close implements resync.Watch.
func (w *watch) Close() {
	if w.over {
		return
	}
	select {
	case w.p.calls <- func() error { w.p.unwatch(w); return nil }:
	case <-w.broken:
	}
}

func (p *Pipeline) unwatch(w *watch) {
	for i, other := range p.watches {
		if other == w {
			p.watches = append(p.watches[:i:i], p.watches[i+1:]...)
			return
		}
	}
}

// note takes a record that was just taken from the ring.
func (p *Pipeline) note(r capture.Record) {
	for _, w := range p.watches {
		if r.Disk == w.disk {
			w.written.add(r.Extent)
		}
	}
}

// settleWatches gives boundaries to those who wait for one. What a try read was
// submitted before it asked; since then the ring was drained, and with no frame open
// all of that is stored, up to the last frame.
func (p *Pipeline) settleWatches() {
	if len(p.watches) == 0 || p.w.open() {
		return
	}
	var left []*watch
	for _, w := range p.watches {
		if w.settling && p.drains > w.drains {
			w.at <- p.w.at
			continue
		}
		left = append(left, w)
	}
	p.watches = left
}

// breakWatches ends all tries.
func (p *Pipeline) breakWatches() {
	for _, w := range p.watches {
		close(w.broken)
	}
	p.watches = nil
}
