package vault

import (
	"context"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
	"github.com/understudy-dr/understudy/pkg/block"
)

const (
	// mergeRatio: a run is merged with those behind it when it is at most this many
	// times as large, so that each byte is rewritten about log(size) times in all, and
	// data overwritten since takes up at most a quarter more.
	mergeRatio = 4
	// maxRuns between two retained points; more make reads slow.
	maxRuns = 16
)

// thinPlan is one step: the next manifest, in which the objects of the run at first
// are still to be written.
type thinPlan struct {
	next    *manifest
	first   int
	kept    map[block.Position]bool
	execute func(context.Context, *merger) error
}

// plan finds the next step: to let go of points, to absorb frames, or to merge runs.
func (m *Machine) plan(ctx context.Context, c *catalog, r Retention) (*thinPlan, error) {
	points := age(c.points())
	m.forgetHashing(c)
	kept := make(map[block.Position]bool)
	for _, p := range r.keep(points, m.v.opts.Now()) {
		kept[p.Position] = true
	}
	m.mu.Lock()
	for p := range m.views {
		kept[p] = true
	}
	m.mu.Unlock()
	p := &thinPlan{kept: kept, next: c.manifest.successor()}
	cleared := p.letGo()
	found, err := p.absorb(ctx, m, c, horizon(points, r, m.v.opts.Now()), r)
	if err != nil {
		return nil, err
	}
	if !found && !p.merge() {
		if !cleared {
			return nil, nil
		}
		p.first = len(p.next.Runs) - 1 // stays as it is
		objects := p.next.Runs[p.first].Objects
		p.execute = func(_ context.Context, w *merger) error {
			w.objects = objects
			return nil
		}
	}
	return p, nil
}

// successor is a copy with the next generation's number.
func (m *manifest) successor() *manifest {
	next := *m
	next.Generation++
	next.Runs = slices.Clone(m.Runs)
	return &next
}

// horizon is the newest point older than the age up to which every point is kept;
// nothing behind it is touched.
func horizon(points []aged, r Retention, now time.Time) block.Position {
	limit := reference(points, now).Add(-r.All)
	for _, p := range slices.Backward(points) {
		if !p.at.After(limit) {
			return p.Position
		}
	}
	return block.Position{}
}

// letGo stops offering the points of runs that are not retained. Their data is merged
// when it is worth it.
func (p *thinPlan) letGo() (any bool) {
	for i := range p.next.Runs {
		if r := &p.next.Runs[i]; r.Point != "" && !p.kept[r.position()] {
			r.Point, r.Name = "", ""
			any = true
		}
	}
	return any
}

// absorb plans to turn the oldest frames up to the horizon into a run of their own:
// up to the first retained point, and no more than can be sorted at once.
func (p *thinPlan) absorb(ctx context.Context, m *Machine, c *catalog, horizon block.Position, r Retention) (bool, error) {
	if horizon.Seq <= c.manifest.Log.Seq || !due(m, c, horizon, r) {
		return false, nil
	}
	i := slices.IndexFunc(c.bounds, func(b boundary) bool { return p.kept[b.pos] || b.pos == horizon })
	goal := c.bounds[i]
	layers := c.tail(at(goal.pos))
	n, last, err := m.batch(ctx, layers)
	if err != nil {
		return false, err
	}
	made := run{Closed: goal.closed}
	if n == len(layers) {
		made.End = cut{goal.pos.Epoch, goal.pos.Seq, c.committedBase(goal.pos.Epoch)}
		if p.kept[goal.pos] {
			made.Point, made.Name = goal.kind, c.names[goal.pos.Seq].Name
		}
	} else {
		made.End, made.Closed = c.cutAfter(layers[n-1], last)
	}
	p.advance(c, made)
	p.execute = func(ctx context.Context, w *merger) error {
		if err := w.rewrite(ctx, layers[:n], place{}, place{lastDisk, everywhere.Len}); err != nil {
			return err
		}
		return w.flush(ctx)
	}
	return true, nil
}

// due reports whether enough has come together behind the runs to be absorbed.
func due(m *Machine, c *catalog, horizon block.Position, r Retention) bool {
	i, ok := c.findBoundary(horizon.Seq)
	if !ok || m.v.limits.patience == 0 {
		return true
	}
	waited := time.Duration(c.bounds[i].closed - c.manifest.Closed)
	return waited < 0 || waited >= r.All/m.v.limits.patience // a clock that went back is no reason to wait
}

// batch is how many layers hold as much payload as is sorted at once, at least one, and the last
// frame of them.
func (m *Machine) batch(ctx context.Context, layers []layer) (n int, last head, err error) {
	var raw int64
	for n = 0; n < len(layers) && raw < m.v.limits.absorb; n++ {
		l := layers[n]
		o, err := m.frames(ctx, l.key, l.kind)
		if err != nil {
			return 0, last, m.readError(l.key, block.DiskID{}, err)
		}
		for _, h := range o.heads {
			if l.holds(h.Header) {
				raw += int64(h.Raw)
				last = h
			}
		}
	}
	return n, last, nil
}

// cutAfter is the cut behind a layer that ends with frame last, and the closing time
// of the log there.
func (c *catalog) cutAfter(l layer, last head) (cut, int64) {
	if l.kind == sealed.KindLog {
		return cut{l.epoch, last.Last, c.committedBase(l.epoch)}, last.Closed.UnixNano()
	}
	before := c.epoch(l.epoch).Begin - 1
	closed := c.manifest.Closed
	if i, ok := c.findBoundary(before); ok {
		closed = c.bounds[i].closed
	}
	return cut{l.epoch, before, uint64(last.Last)}, closed
}

// advance appends a run to the next manifest, with the facts of the epochs it reaches.
func (p *thinPlan) advance(c *catalog, r run) {
	next := p.next
	next.Runs = append(next.Runs, r)
	p.first = len(next.Runs) - 1
	next.Through, next.Closed = r.End, r.Closed
	next.Log = block.Position{Epoch: c.manifest.Log.Epoch, Seq: r.End.Seq}
	next.Tail = c.around(r.End.Seq)
	next.Epochs = nil
	for _, e := range c.epochs {
		if e.Epoch > r.End.Epoch {
			break
		}
		if e.Begin != 0 && e.Begin <= r.End.Seq {
			next.Log.Epoch = e.Epoch
		}
		facts := *e
		if e.Epoch == r.End.Epoch {
			facts.Committed = r.End.Base
		}
		next.Epochs = append(next.Epochs, &facts)
	}
}

// merge plans to merge adjacent runs between two retained points.
func (p *thinPlan) merge() bool {
	for from := 0; from < len(p.next.Runs); {
		to := from
		for to < len(p.next.Runs)-1 && p.next.Runs[to].Point == "" {
			to++
		}
		if i := from + mergeFrom(p.next.Runs[from:to+1]); i < to {
			p.replace(i, to)
			return true
		}
		from = to + 1
	}
	return false
}

// mergeFrom is the index of the oldest run worth merging with all behind it.
func mergeFrom(runs []run) int {
	if len(runs) > maxRuns {
		return 0
	}
	i := len(runs) - 1
	behind := runs[i].size()
	for i > 0 && runs[i-1].size() <= mergeRatio*behind {
		i--
		behind += runs[i].size()
	}
	return i
}

// replace puts one run in the place of runs from..to.
func (p *thinPlan) replace(from, to int) {
	old := slices.Clone(p.next.Runs[from : to+1])
	merged := old[len(old)-1]
	merged.Objects = nil
	p.next.Runs = slices.Replace(p.next.Runs, from, to+1, merged)
	p.first = from
	p.execute = func(ctx context.Context, w *merger) error { return w.merge(ctx, old) }
}
