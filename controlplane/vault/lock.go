package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/pkg/block"
)

// lock locks a point against thinning.
type lock struct {
	Position block.Position `json:"position"`
	Name     string         `json:"name,omitempty"`
	Created  time.Time      `json:"created"`
}

// Lock keeps a recovery point whatever the retention says, until Unlock of the same name.
// Several may lock one point, each under a name of its own; the same name twice is one lock.
func (m *Machine) Lock(ctx context.Context, p block.Position, name string) error {
	m.load.Lock()
	defer m.load.Unlock()
	c, err := m.refresh(ctx)
	if err != nil {
		return err
	}
	if !c.retained(p) {
		return c.noPoint(p.String(), "that position is not a retained recovery point")
	}
	doc := lock{Position: p, Name: name, Created: m.v.opts.Now().UTC()}
	if err := m.putDocument(ctx, lockName(m.id, p, name), 0, doc); err != nil && !errors.Is(err, objstore.ErrExists) {
		return fmt.Errorf("vault: locking point %v of machine %s: %w", p, m.id, err)
	}
	return m.reloadLocks(ctx)
}

// Unlock takes the lock of this name away; with the last one the point is the retention's
// again. One that is not there is no error.
func (m *Machine) Unlock(ctx context.Context, p block.Position, name string) error {
	m.load.Lock()
	defer m.load.Unlock()
	if _, err := m.refresh(ctx); err != nil {
		return err
	}
	if err := m.v.store.Delete(ctx, lockName(m.id, p, name)); err != nil {
		return fmt.Errorf("vault: unlocking point %v of machine %s: %w", p, m.id, err)
	}
	return m.reloadLocks(ctx)
}

// Locks are the names of a point's locks, the oldest first.
func (m *Machine) Locks(ctx context.Context, p block.Position) ([]string, error) {
	c, err := m.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, lock := range c.locks[p] {
		names = append(names, lock.Name)
	}
	return names, nil
}

func (m *Machine) reloadLocks(ctx context.Context) error {
	locks, err := m.loadLocks(ctx)
	if err != nil {
		return err
	}
	m.update(func(c *catalog) { c.locks = locks })
	return nil
}

// update publishes a changed copy of the catalog.
func (m *Machine) update(change func(*catalog)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := *m.cat
	change(&next)
	m.cat = &next
}

// locks are the locks by their points, the oldest first.
type locks map[block.Position][]lock

func (m *Machine) loadLocks(ctx context.Context) (locks, error) {
	all := make(locks)
	prefix := lockPrefix(m.id)
	for info, err := range m.v.store.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		n, err := parseNumbers(info.Key, prefix, 2)
		if err != nil {
			return nil, err
		}
		// The name alone locks the point, so that a damaged lock still does.
		at := block.Position{Epoch: block.Epoch(n[0]), Seq: block.Seq(n[1])}
		var doc lock
		if err := m.document(ctx, info.Key, &doc); isPassing(err) {
			return nil, err
		}
		all[at] = append(all[at], doc)
	}
	for _, locks := range all {
		slices.SortFunc(locks, func(a, b lock) int { return a.Created.Compare(b.Created) })
	}
	return all, nil
}
