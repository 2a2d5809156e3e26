package resync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// try compares what of a set is not written meanwhile, by one granule: the one place
// where readings and the vault's answers meet. In a coarse try granules that are not
// whole in the set, that differ or that the vault cannot give are in no set of the
// verdict but Equal's complement: they are for a fine one.
func (q *Proof) try(ctx context.Context, what *block.Set, granule int64) (Verdict, error) {
	v := newVerdict()
	all := what.Extents()
	hull := block.Extent{Off: all[0].Off, Len: all[len(all)-1].End() - all[0].Off}
	watch, err := q.witness.Watch(ctx, q.d.ID, hull)
	if err != nil {
		return v, err
	}
	defer watch.Close()
	own, err := q.read(ctx, what, granule)
	if err != nil {
		return v, err
	}
	at, written, err := watch.Settle(ctx)
	if err != nil {
		return v, err
	}
	v.First, v.Last = at, at
	own = slices.DeleteFunc(own, func(r sample) bool {
		if written.Overlaps(r.Extent) {
			v.Written.Add(r.Extent)
			return true
		}
		return false
	})
	err = q.compare(ctx, &v, at, own, granule)
	return v, err
}

// compare asks for the vault's hashes of the samples, some questions at once.
func (q *Proof) compare(ctx context.Context, v *Verdict, at block.Position, own []sample, granule int64) error {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(asksAtOnce)
	for _, question := range questions(own, granule) {
		g.Go(func() error {
			answer := newVerdict()
			if err := q.ask(ctx, &answer, at, question, granule); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			v.add(answer)
			return nil
		})
	}
	return g.Wait()
}

// sample is a granule as the disk showed it.
type sample struct {
	block.Extent
	hash block.Hash16
}

// read hashes the granules that lie whole in the set, in ascending order.
func (q *Proof) read(ctx context.Context, what *block.Set, granule int64) ([]sample, error) {
	var mu sync.Mutex
	var all []sample
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	bufs := sync.Pool{New: func() any { b := aligned(chunkSize); return &b }}
	for c := range chunks(what, q.d.may) {
		g.Go(func() error {
			buf := bufs.Get().(*[]byte)
			defer bufs.Put(buf)
			c.data = (*buf)[:c.span.Len]
			if err := q.fill(ctx, c); err != nil {
				return err
			}
			found := q.hash(c, granule)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, found...)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b sample) int { return cmp.Compare(a.Off, b.Off) })
	return all, nil
}

// readers read and hash at once: a scrub is never in a hurry.
const readers = 2

func (q *Proof) fill(ctx context.Context, c *chunk) error {
	for rest := c.span; !rest.Empty(); {
		part := rest.Intersect(block.Extent{Off: rest.Off, Len: q.d.pace.grain()})
		if err := q.d.pace.wait(ctx, part); err != nil {
			return err
		}
		if err := read(q.d, c.at(part), part.Off); err != nil {
			return err
		}
		rest = block.Extent{Off: part.End(), Len: rest.End() - part.End()}
	}
	return nil
}

func (q *Proof) hash(c *chunk, granule int64) (out []sample) {
	for _, want := range c.want {
		for off := want.Align(granule).Off; off < want.End(); off += granule {
			e := block.Extent{Off: off, Len: min(granule, q.d.Size-off)}
			if want.Contains(e) {
				out = append(out, sample{e, block.AppendHashes(nil, c.at(e), granule)[0]})
			}
		}
	}
	return out
}

// questions cuts samples into what one request to the vault covers.
func questions(own []sample, granule int64) (out [][]sample) {
	for from := 0; from < len(own); {
		to := from + 1
		most := own[from].Off + min(questionSize, wire.MaxHashes*granule)
		for to < len(own) && own[to].Off-own[to-1].End() <= questionGap && own[to].End() <= most {
			to++
		}
		out = append(out, own[from:to])
		from = to
	}
	return out
}

// ask compares samples with the vault's hashes. Where the vault cannot give them all,
// the halves are asked for, down to what it cannot give.
func (q *Proof) ask(ctx context.Context, v *Verdict, at block.Position, own []sample, granule int64) error {
	hull := block.Extent{Off: own[0].Off, Len: own[len(own)-1].End() - own[0].Off}
	theirs, err := q.hashes(ctx, at, hull, granule)
	switch {
	case damaged(err) && len(own) > 1:
		mid := len(own) / 2
		return errors.Join(q.ask(ctx, v, at, own[:mid], granule), q.ask(ctx, v, at, own[mid:], granule))
	case damaged(err):
		v.Damaged.Add(own[0].Extent)
		return nil
	case err != nil:
		return err
	case int64(len(theirs)) != (hull.Len+granule-1)/granule:
		return fmt.Errorf("resync: disk %s (%s): the relay answered %d range hashes for %v: check that agent and relay are of one version", q.d.Path, q.d.ID, len(theirs), hull)
	}
	for _, r := range own {
		switch their := theirs[(r.Off-hull.Off)/granule]; {
		case their == r.hash, their == block.NoData && r.hash == block.ZeroHash(r.Len):
			v.Equal.Add(r.Extent)
		case their == block.NoData:
			v.Absent.Add(r.Extent)
		default:
			v.Differs.Add(r.Extent)
		}
	}
	return nil
}

// hashes asks the vault, and leaves room for other askers of this machine.
func (q *Proof) hashes(ctx context.Context, at block.Position, e block.Extent, granule int64) ([]block.Hash16, error) {
	select {
	case q.asks <- struct{}{}:
		defer func() { <-q.asks }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return q.prover.ProofHashes(ctx, at, q.d.ID, e.Off, e.Len, granule)
}
