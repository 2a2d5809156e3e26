package vault

import (
	"context"
	"errors"
	"slices"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/pkg/block"
)

// The end of a thinning step: one manifest takes the place of another, or does not.

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
	if err := m.reloadLocks(ctx); err != nil {
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
	// that was out for so long has made a manifest nobody will read. Or it was slow only
	// now, and another has built upon its manifest: which must stay then, or a late
	// listing would end at the gap.
	if newer, err := m.superseded(ctx, p.next.Generation); err != nil {
		return err
	} else if newer {
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
	for pos := range c.locks {
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
