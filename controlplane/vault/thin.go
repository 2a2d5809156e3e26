package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
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
	if r == (Retention{}) {
		return ThinReport{}, fmt.Errorf("vault: thinning machine %s: no retention is given, and none would keep only the newest point; name a policy", m.id)
	}
	if err := r.Validate(); err != nil {
		return ThinReport{}, err
	}
	return m.thin(ctx, r)
}

func (m *Machine) thin(ctx context.Context, r Retention) (ThinReport, error) {
	var report ThinReport
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
	if m.collected {
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
		w.takeBack(ctx, c.manifest)
		return false, m.overtaken(ctx, c, err)
	}
	plan.next.Runs[plan.first].Objects = w.objects
	m.collected = false
	if err := m.commitManifest(ctx, plan); err != nil {
		if changedNothing(err) {
			c, _ = m.current()
			w.takeBack(ctx, c.manifest)
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
	if err := m.reloadLocks(ctx); err != nil {
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
