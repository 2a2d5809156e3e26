package resync

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/wire"
)

const (
	// questionSize is the stretch of disk one request for coarse hashes covers: 8 KiB
	// of answer, and some 30 ms of the vault's reading and hashing.
	questionSize = 32 << 20
	// questionGap is the unread stretch worth asking about to save a request.
	questionGap = 1 << 20
	// asksAhead requests run ahead of the reads, so that answers wait for the disk and
	// the disk never waits for answers.
	asksAhead = 3
	// asksAtOnce bounds the requests under way. The relay answers four of a machine at
	// once and refuses a fifth for a while.
	asksAtOnce = 3
)

// question is a request for the coarse hashes of a stretch.
type question struct {
	hull   block.Extent
	chunks []*chunk
	hashes []block.Hash16
	err    error
	done   chan struct{}
}

// take adds a chunk, if one request can cover it too.
func (q *question) take(c *chunk, size int64) bool {
	e := c.span.Align(block.CoarseGranule).Intersect(block.Extent{Len: size})
	if q.chunks == nil {
		q.hull = e
	}
	if e.Off-q.hull.End() > questionGap || e.End()-q.hull.Off > questionSize {
		return false
	}
	q.hull.Len = max(q.hull.End(), e.End()) - q.hull.Off
	q.chunks = append(q.chunks, c)
	c.asks = q
	return true
}

// coarse is the vault's hash of the coarse granule at off.
func (q *question) coarse(off int64) block.Hash16 {
	return q.hashes[(off-q.hull.Off)/block.CoarseGranule]
}

// asked passes chunks on with their coarse hashes requested in time.
func (r *run) asked(ctx context.Context, g *errgroup.Group, d *disk, src iter.Seq[*chunk]) iter.Seq[*chunk] {
	ask := func(q *question) {
		g.Go(func() error {
			defer close(q.done)
			q.hashes, q.err = r.hashes(ctx, d, q.hull, block.CoarseGranule)
			return nil // the chunks' workers report it
		})
	}
	return func(yield func(*chunk) bool) {
		var waiting []*question
		drain := func(keep int) bool {
			for ; len(waiting) > keep; waiting = waiting[1:] {
				for _, c := range waiting[0].chunks {
					if !yield(c) {
						return false
					}
				}
			}
			return true
		}
		q := &question{done: make(chan struct{})}
		for c := range src {
			if q.take(c, d.Size) {
				continue
			}
			ask(q)
			if waiting = append(waiting, q); !drain(asksAhead) {
				return
			}
			q = &question{done: make(chan struct{})}
			q.take(c, d.Size)
		}
		if q.chunks != nil {
			ask(q)
			waiting = append(waiting, q)
		}
		drain(0)
	}
}

// compare finds the blocks of a chunk in which the vault differs from the disk. A
// coarse granule that was not read whole, because part of it is free or not in doubt,
// goes straight to its fine granules.
func (r *run) compare(ctx context.Context, d *disk, c *chunk) error {
	own := make(map[int64]block.Hash16, chunkSize/block.CoarseGranule)
	for e := range coarseOf(c.span, d.Size) {
		if c.span.Contains(e) {
			own[e.Off] = block.AppendHashes(nil, c.at(e), block.CoarseGranule)[0]
		}
	}
	select {
	case <-c.asks.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	unusable := damaged(c.asks.err)
	if c.asks.err != nil && !unusable {
		return c.asks.err
	}
	var suspects []block.Extent
	for e := range coarseOf(c.span, d.Size) {
		if h, whole := own[e.Off]; unusable || !whole || h != c.asks.coarse(e.Off) {
			suspects = append(suspects, e.Intersect(c.span))
		}
	}
	return r.refine(ctx, d, c, suspects)
}

// refine compares the blocks inside the suspect granules, by one request.
func (r *run) refine(ctx context.Context, d *disk, c *chunk, suspects []block.Extent) error {
	if len(suspects) == 0 {
		return nil
	}
	hull := block.Extent{Off: suspects[0].Off, Len: suspects[len(suspects)-1].End() - suspects[0].Off}
	theirs, err := r.hashes(ctx, d, hull, block.FineGranule)
	unusable := damaged(err) // all of it is sent: that is its repair
	if err != nil && !unusable {
		return err
	}
	suspect := block.NewSet(suspects...)
	for _, want := range c.want {
		for e := range suspect.Within(want) {
			for b := range blocks(e) {
				own := block.AppendHashes(nil, c.at(b), block.FineGranule)[0]
				if unusable || own != theirs[(b.Off-hull.Off)/block.FineGranule] {
					c.push(piece{b, own == block.ZeroHash(b.Len)})
				}
			}
		}
	}
	return nil
}

// damaged: the vault cannot use what it stores of the range, now or later.
func damaged(err error) bool { return errors.Is(err, &wire.Error{Code: wire.CodeHashesDamaged}) }

// hashes asks the vault and refuses an answer of the wrong length.
func (r *run) hashes(ctx context.Context, d *disk, e block.Extent, granule int64) ([]block.Hash16, error) {
	select {
	case r.asks <- struct{}{}:
		defer func() { <-r.asks }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	h, err := r.hasher.RangeHashes(ctx, d.ID, e.Off, e.Len, granule)
	if err != nil {
		return nil, fmt.Errorf("resync: disk %s (%s): range hashes of %v: %w", d.Path, d.ID, e, err)
	}
	if want := int((e.Len + granule - 1) / granule); len(h) != want {
		return nil, fmt.Errorf("resync: disk %s (%s): the relay answered %d range hashes for %v, not %d: check that agent and relay are of one version", d.Path, d.ID, len(h), e, want)
	}
	return h, nil
}

// coarseOf yields the coarse granules that e touches, cut at the disk's end.
func coarseOf(e block.Extent, size int64) iter.Seq[block.Extent] {
	return func(yield func(block.Extent) bool) {
		for off := e.Off &^ (block.CoarseGranule - 1); off < e.End(); off += block.CoarseGranule {
			if !yield(block.Extent{Off: off, Len: min(block.CoarseGranule, size-off)}) {
				return
			}
		}
	}
}
