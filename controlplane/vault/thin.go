package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore"
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

// ThinReport says what a thinning did.
type ThinReport struct {
	Points  int   // retained now
	Removed int   // points that are gone
	Steps   int   // manifest generations
	Deleted int   // objects
	Written int64 // bytes of merged objects
}

// errOvertaken: the step's outcome does not fit the history any more; plan again.
var errOvertaken = errors.New("vault: the history has changed during a thinning")

// Thin applies a retention to the machine's history: it merges what lies between
// retained points and is older than the retention keeps every point, and deletes what
// the merged runs replace. What retained points read does not change at any moment.
//
// It works in steps, each of which ends with the next manifest generation. A crash
// leaves the generation before it and objects that no manifest names; a later Thin
// collects those. Writers, readers and other thinnings may go on meanwhile. It may be
// called often: frames are absorbed when a part of the age up to which every point is
// kept (limits.patience) has come together, and a call in between costs two listings.
//
// Memory: about 200 MB, plus the manifest.
func (m *Machine) Thin(ctx context.Context, r Retention) (ThinReport, error) {
	var report ThinReport
	if err := r.Validate(); err != nil {
		return report, err
	}
	m.thinning.Lock()
	defer m.thinning.Unlock()
	for {
		start := time.Now()
		more, err := m.thinStep(ctx, r, &report)
		if errors.Is(err, errOvertaken) {
			continue
		}
		if err != nil {
			m.v.metrics.thinned(time.Since(start), err)
			return report, fmt.Errorf("vault: thinning machine %s: %w", m.id, err)
		}
		if !more {
			break
		}
		m.v.metrics.thinned(time.Since(start), nil)
	}
	m.v.metrics.retained.WithLabelValues(m.id.String()).Set(float64(report.Points))
	if report.Steps == 0 && m.collected {
		return report, nil
	}
	if err := m.collect(ctx, &report); err != nil {
		return report, fmt.Errorf("vault: deleting what thinning has replaced of machine %s: %w", m.id, err)
	}
	m.collected = true
	return report, nil
}

// thinStep plans and executes one step; false if there is nothing to do.
func (m *Machine) thinStep(ctx context.Context, r Retention, report *ThinReport) (bool, error) {
	c, err := m.settled(ctx)
	if err != nil {
		return false, err
	}
	plan, err := m.plan(ctx, c, r)
	if err != nil || plan == nil {
		report.Points = len(c.points())
		return false, m.overtaken(ctx, c, err)
	}
	before := len(c.points())
	w := newRunWriter(m.thinFetcher(), c.manifest.Generation+1, plan.next.Through.Epoch)
	if err := plan.execute(ctx, &merger{runWriter: w, bottom: plan.first == 0}); err != nil {
		w.takeBack(ctx)
		return false, m.overtaken(ctx, c, err)
	}
	plan.next.Runs[plan.first].Objects = w.objects
	if err := m.commitManifest(ctx, plan); err != nil {
		if changedNothing(err) {
			w.takeBack(ctx)
		}
		return false, err
	}
	c, _ = m.current()
	report.Steps++
	report.Removed += max(0, before-len(c.points()))
	report.Written += w.bytes
	m.v.log.Debug("thinned", slog.String("machine", m.id.String()), slog.Uint64("generation", plan.next.Generation), slog.Int("runs", len(plan.next.Runs)))
	return true, nil
}

// thinFetcher reads through a cache of its own, so that thinning does not push out
// what readers have cached.
func (m *Machine) thinFetcher() *fetcher {
	f := m.fetcher
	f.payloads = newCache[unit, []byte](m.v.limits.absorb * 3 / 2)
	return &f
}

// settled is the history as of now, locks of other processes included.
func (m *Machine) settled(ctx context.Context) (*catalog, error) {
	m.load.Lock()
	defer m.load.Unlock()
	c, err := m.refresh(ctx)
	if err != nil {
		return nil, err
	}
	if len(c.damage) > 0 {
		return nil, c.damage[0]
	}
	if err := m.reloadPins(ctx); err != nil {
		return nil, err
	}
	c, _ = m.current()
	return c, nil
}

func (c *catalog) points() (points []Point) {
	c.eachPoint(func(p Point) bool {
		points = append(points, p)
		return true
	})
	return points
}

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

// changedNothing reports errors of commitManifest after which no manifest names what
// the step has written. After any other the manifest may be stored.
func changedNothing(err error) bool {
	return errors.Is(err, errOvertaken) || errors.Is(err, objstore.ErrFull) || errors.Is(err, objstore.ErrReadOnly)
}

// commitManifest stores the next manifest and switches to it, unless a point that it
// gives up has been locked or opened since the plan was made.
func (m *Machine) commitManifest(ctx context.Context, p *thinPlan) error {
	m.load.Lock()
	defer m.load.Unlock()
	if err := m.reloadPins(ctx); err != nil {
		return err
	}
	c, _ := m.current()
	if m.wanted(c, p) || c.manifest.Generation+1 != p.next.Generation {
		return errOvertaken
	}
	p.next.pruneEpochs()
	name := numbered(manifestPrefix(m.id), p.next.Generation)
	if err := m.putDocument(ctx, name, p.next.Generation, p.next); err != nil {
		if errors.Is(err, objstore.ErrExists) {
			return m.yield(ctx)
		}
		// It may have been stored all the same: the next look at the store tells.
		_, loadErr := m.reread(ctx)
		return errors.Join(err, loadErr)
	}
	// Older manifests are deleted one day, and then their names are free. A thinning
	// that was out for so long has made a manifest nobody will read.
	if newer, err := m.superseded(ctx, p.next.Generation); err != nil || newer {
		if err != nil {
			return err
		}
		if err := m.v.store.Delete(ctx, name); err != nil {
			return err
		}
		return m.yield(ctx)
	}
	m.publish(c.withManifest(p.next))
	return nil
}

// yield gives way to another thinning's manifest.
func (m *Machine) yield(ctx context.Context) error {
	if _, err := m.reread(ctx); err != nil {
		return err
	}
	return errOvertaken
}

// wanted reports whether a point that the plan gives up is locked or open by now.
func (m *Machine) wanted(c *catalog, p *thinPlan) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	given := func(pos block.Position) bool {
		return c.retained(pos) && pos.Seq <= p.next.Log.Seq && !p.kept[pos]
	}
	for pos := range c.pins {
		if given(pos) {
			return true
		}
	}
	for pos := range m.views {
		if given(pos) {
			return true
		}
	}
	return false
}

// overtaken turns the error of a step into errOvertaken if another thinning has
// replaced the objects that the step was reading.
func (m *Machine) overtaken(ctx context.Context, c *catalog, err error) error {
	if !errors.Is(err, objstore.ErrNotFound) {
		return err
	}
	m.load.Lock()
	defer m.load.Unlock()
	if newer, listErr := m.superseded(ctx, c.manifest.Generation); listErr != nil || !newer {
		return errors.Join(err, listErr)
	}
	return m.yield(ctx)
}

// pruneEpochs drops the facts of epochs that no point and no frame to come needs.
func (m *manifest) pruneEpochs() {
	m.Epochs = slices.DeleteFunc(m.Epochs, func(e *Epoch) bool {
		return e.Epoch != m.Through.Epoch && e.Epoch != m.Log.Epoch &&
			!slices.ContainsFunc(m.Runs, func(r run) bool { return r.Point != "" && r.End.Epoch == e.Epoch })
	})
}

// withManifest is the catalog with more of its history in runs.
func (c *catalog) withManifest(next *manifest) *catalog {
	n := *c
	n.manifest = next
	n.epochs = nil
	for _, e := range c.epochs {
		inRuns := slices.ContainsFunc(next.Epochs, func(x *Epoch) bool { return x.Epoch == e.Epoch })
		if e.Epoch <= next.Through.Epoch && !inRuns {
			continue
		}
		facts := *e
		facts.base = slices.DeleteFunc(slices.Clone(e.base), func(b baseRef) bool { return next.holdsBase(e.Epoch, b.last) })
		n.epochs = append(n.epochs, &facts)
	}
	n.logs = slices.DeleteFunc(slices.Clone(c.logs), func(l logRef) bool { return l.last <= next.Log.Seq })
	i, _ := c.findBoundary(next.Log.Seq + 1)
	n.bounds = slices.Clone(c.bounds[i:])
	return &n
}

// findBoundary finds the first boundary at or behind seq, and whether it is at seq.
func (c *catalog) findBoundary(seq block.Seq) (int, bool) {
	return slices.BinarySearchFunc(c.bounds, seq, func(b boundary, s block.Seq) int {
		switch {
		case b.pos.Seq < s:
			return -1
		case b.pos.Seq > s:
			return 1
		}
		return 0
	})
}
