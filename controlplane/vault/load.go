package vault

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

const (
	// fetchWidth is how many objects are fetched at once while a history is read.
	fetchWidth = 8
	// fetchBatch bounds the heads held while they wait for their turn.
	fetchBatch = 32
	// loadAttempts bounds reloads when a thinning elsewhere takes objects away.
	loadAttempts = 5
)

// errSuperseded: the manifest that was read is no longer the newest.
var errSuperseded = errors.New("vault: thinned meanwhile")

// loadAll reads a machine's history from the store: the newest manifest, and the
// indexes of the log objects behind it.
func (m *Machine) loadAll(ctx context.Context) (*catalog, error) {
	for range loadAttempts {
		c, err := m.loadOnce(ctx)
		if err == nil || !errors.Is(err, errSuperseded) || isPassing(err) {
			return c, err
		}
	}
	return nil, fmt.Errorf("%w %d times while it was read: try again", errSuperseded, loadAttempts)
}

func (m *Machine) loadOnce(ctx context.Context) (*catalog, error) {
	mf, err := m.loadManifest(ctx)
	if err != nil {
		return nil, err
	}
	c := newCatalog(m.id, mf)
	if c, err = m.loadLogs(ctx, c); err != nil {
		return nil, err
	}
	if c, err = m.loadBases(ctx, c); err != nil {
		return nil, err
	}
	if c.locks, err = m.loadLocks(ctx); err != nil {
		return nil, err
	}
	if missed, err := m.missed(ctx, c); err != nil || missed {
		return nil, errors.Join(err, errSuperseded)
	}
	return c, nil
}

func (m *Machine) loadManifest(ctx context.Context) (*manifest, error) {
	prefix := manifestPrefix(m.id)
	top, err := m.newest(ctx, prefix)
	if err != nil {
		return nil, err
	}
	if top == 0 {
		return &manifest{Version: manifestVersion, Machine: m.id}, nil
	}
	name := numbered(prefix, top)
	_, b, err := m.open(ctx, name, sealed.KindDocument)
	if err == nil {
		var mf *manifest
		if mf, err = parseManifest(b); err == nil && mf.Machine == m.id && mf.Generation == top {
			return mf, nil
		}
	}
	if isPassing(err) {
		return nil, err
	}
	return nil, m.damaged(name, "every recovery point older than the newest log objects", err)
}

// superseded reports whether there is a manifest of a later generation.
func (m *Machine) superseded(ctx context.Context, generation uint64) (bool, error) {
	top, err := m.newest(ctx, manifestPrefix(m.id))
	return top > generation, err
}

// missed reports whether a history, just read, may lack what was stored before: a thinning
// meanwhile has brought it into runs and taken it away. Then, too, what looks like damage
// may be the garbage that it collects, and what looks like a part of a base may have come
// behind a fence put down just now.
func (m *Machine) missed(ctx context.Context, c *catalog) (bool, error) {
	newer, err := m.superseded(ctx, c.manifest.Generation)
	if err != nil || !newer || len(c.damage) > 0 || c.unsettled() {
		return newer, err
	}
	mf, err := m.loadManifest(ctx)
	return err != nil || c.behind(mf), err
}

// behind reports whether a manifest's runs hold frames that are not in the catalog.
func (c *catalog) behind(mf *manifest) bool {
	return c.last.pos.Seq < mf.Log.Seq || slices.ContainsFunc(c.epochs, func(e *Epoch) bool {
		whole := e.Complete != 0 && e.Committed >= e.BaseFrames
		return !whole && !c.manifest.holdsBase(e.Epoch, math.MaxUint64) && mf.holdsBase(e.Epoch, c.committedBase(e.Epoch)+1)
	})
}

func (m *Machine) damaged(name, affected string, err error) *DamageError {
	if err == nil {
		err = errors.New("it belongs to another place")
	}
	return &DamageError{Machine: m.id, Object: name, Affected: affected, Err: err}
}

// loadLogs follows the log chain from the manifest's end on.
func (m *Machine) loadLogs(ctx context.Context, c *catalog) (*catalog, error) {
	names, err := m.logNames(ctx, c.manifest)
	if err != nil {
		return nil, err
	}
	for batch := range slices.Chunk(names, fetchBatch) {
		objects, errs := m.fetchAll(ctx, batch, sealed.KindLog)
		for i, name := range batch {
			if isPassing(errs[i]) {
				return nil, errs[i]
			}
			// The listing may have missed objects before this one.
			if c, err = m.probeLogs(ctx, c, name); err != nil || len(c.damage) > 0 {
				return c, err
			}
			if errs[i] == nil {
				c, errs[i] = m.follow(c, objects[i])
			}
			if errs[i] != nil {
				return m.broken(c, name, errs[i]), nil
			}
		}
	}
	return m.probeLogs(ctx, c, "")
}

// follow extends the chain, or returns it unchanged with the reason why not.
func (m *Machine) follow(c *catalog, o frames) (*catalog, error) {
	next, err := c.withLog(o.key, o.size(), o.header.Generation, o.list())
	if err != nil {
		return c, err
	}
	return next, nil
}

// list is the frames without their places in the object.
func (o frames) list() []*frame.Frame {
	list := make([]*frame.Frame, len(o.heads))
	for i, h := range o.heads {
		list[i] = h.Frame
	}
	return list
}

// broken is the catalog whose chain ends before a bad object.
func (m *Machine) broken(c *catalog, name string, err error) *catalog {
	next := *c
	affected := fmt.Sprintf("every recovery point after %v", c.last.pos)
	next.damage = append(slices.Clone(c.damage), m.damaged(name, affected, err))
	return &next
}

// logNames lists the log objects that hold frames behind the manifest. That which the
// manifest ends within is named even if it is not listed yet: its frames would be missed,
// and written once more beside it.
func (m *Machine) logNames(ctx context.Context, mf *manifest) ([]string, error) {
	prefix := logPrefix(m.id)
	var names []string
	for info, err := range m.v.store.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		numbers, err := parseNumbers(info.Key, prefix, 1)
		if err != nil {
			return nil, err
		}
		if block.Seq(numbers[0]) <= mf.Log.Seq+1 {
			names = names[:0] // those before it end at or before Log
		}
		names = append(names, info.Key)
	}
	if mf.Tail != 0 {
		tail := logName(m.id, mf.Tail)
		if i, listed := slices.BinarySearch(names, tail); !listed {
			names = slices.Insert(names, i, tail)
		}
	}
	return names, nil
}

// probeLogs asks for the objects that must come next by name, up to the one given:
// a listing may be late, Head and Get are not. With no name it goes on to the end.
func (m *Machine) probeLogs(ctx context.Context, c *catalog, upto string) (*catalog, error) {
	for {
		name := logName(m.id, c.last.pos.Seq+1)
		if upto != "" && name >= upto {
			return c, nil
		}
		o, err := m.frames(ctx, name, sealed.KindLog)
		if errors.Is(err, objstore.ErrNotFound) {
			return c, nil
		}
		if isPassing(err) {
			return c, err
		}
		if err == nil {
			c, err = m.follow(c, o)
		}
		if err != nil {
			return m.broken(c, name, err), nil
		}
	}
}

// loadBases follows the chain of base objects of every epoch that is not in the runs.
func (m *Machine) loadBases(ctx context.Context, c *catalog) (*catalog, error) {
	names, err := m.baseNames(ctx, c)
	if err != nil {
		return nil, err
	}
	for e, list := range names {
		damage := len(c.damage)
		if c, err = m.loadBase(ctx, c, e, list); err != nil {
			return nil, err
		}
		n, want := c.committedBase(e), c.settledBase(e)
		if n < want && len(c.damage) == damage {
			c = m.brokenBase(c, e, baseName(m.id, e, n+1), fmt.Errorf("base frames %d..%d are missing: they were stored when epoch %d ended: %w", n+1, want, e, objstore.ErrNotFound))
		}
	}
	return c, nil
}

// baseNames lists the base objects that are not in the runs, by epoch. Every epoch
// not in the runs has an entry: its objects may only be listed late.
func (m *Machine) baseNames(ctx context.Context, c *catalog) (map[block.Epoch][]string, error) {
	prefix := basePrefix(m.id)
	names := make(map[block.Epoch][]string)
	for _, e := range c.epochs {
		if !c.manifest.holdsBase(e.Epoch, math.MaxUint64) {
			names[e.Epoch] = nil
		}
	}
	for info, err := range m.v.store.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		n, err := parseNumbers(info.Key, prefix, 2)
		if err != nil {
			return nil, err
		}
		// Thinning ends between base objects, so one is either in the runs or not.
		if e := block.Epoch(n[0]); !c.manifest.holdsBase(e, n[1]) && !c.beyond(e, n[1]) {
			names[e] = append(names[e], info.Key)
		}
	}
	return names, nil
}

func (m *Machine) loadBase(ctx context.Context, c *catalog, e block.Epoch, names []string) (*catalog, error) {
	var err error
	for batch := range slices.Chunk(names, fetchBatch) {
		objects, errs := m.fetchAll(ctx, batch, sealed.KindBase)
		for i, name := range batch {
			if isPassing(errs[i]) {
				return nil, errs[i]
			}
			damage := len(c.damage)
			if c, err = m.probeBases(ctx, c, e, name); err != nil || len(c.damage) > damage {
				return c, err
			}
			if errs[i] == nil {
				c, errs[i] = m.followBase(c, e, objects[i])
			}
			if errs[i] != nil {
				return m.brokenBase(c, e, name, errs[i]), nil
			}
		}
	}
	return m.probeBases(ctx, c, e, "")
}

func (m *Machine) followBase(c *catalog, e block.Epoch, o frames) (*catalog, error) {
	next, err := c.withBase(e, o.key, o.list())
	if err != nil {
		return c, err
	}
	return next, nil
}

func (m *Machine) brokenBase(c *catalog, e block.Epoch, name string, err error) *catalog {
	next := *c
	affected := fmt.Sprintf("every recovery point of epoch %d and later", e)
	next.damage = append(slices.Clone(c.damage), m.damaged(name, affected, err))
	if c.hole == 0 || e < c.hole {
		next.hole = e
	}
	return &next
}

// probeBases asks for the base objects that must come next by name, up to the one
// given; with no name it goes on to the end.
func (m *Machine) probeBases(ctx context.Context, c *catalog, e block.Epoch, upto string) (*catalog, error) {
	for {
		if c.beyond(e, c.committedBase(e)+1) {
			return c, nil
		}
		name := baseName(m.id, e, c.committedBase(e)+1)
		if upto != "" && name >= upto {
			return c, nil
		}
		o, err := m.frames(ctx, name, sealed.KindBase)
		if errors.Is(err, objstore.ErrNotFound) {
			return c, nil
		}
		if isPassing(err) {
			return c, err
		}
		if err == nil {
			c, err = m.followBase(c, e, o)
		}
		if err != nil {
			return m.brokenBase(c, e, name, err), nil
		}
	}
}

// fetchAll fetches several objects at once; each has its own error.
func (m *Machine) fetchAll(ctx context.Context, names []string, kind sealed.Kind) ([]frames, []error) {
	objects, errs := make([]frames, len(names)), make([]error, len(names))
	var g errgroup.Group
	g.SetLimit(fetchWidth)
	for i, name := range names {
		g.Go(func() error {
			objects[i], errs[i] = m.frames(ctx, name, kind)
			return nil
		})
	}
	_ = g.Wait() // errors are in errs
	return objects, errs
}

// catchUp extends a loaded catalog by what other processes have stored since; nil if
// it must be read anew.
func (m *Machine) catchUp(ctx context.Context, c *catalog) (*catalog, error) {
	if c.last.pos.Seq == 0 || len(c.damage) > 0 {
		return nil, nil
	}
	c, err := m.probeLogs(ctx, c, "")
	if err != nil {
		return nil, err
	}
	for _, e := range c.epochs {
		if !c.manifest.holdsBase(e.Epoch, math.MaxUint64) && (e.Complete == 0 || e.Committed < e.BaseFrames) {
			if c, err = m.probeBases(ctx, c, e.Epoch, ""); err != nil {
				return nil, err
			}
		}
	}
	locks, err := m.loadLocks(ctx)
	if err != nil {
		return nil, err
	}
	// Asked last: what a thinning meanwhile took away was not found above.
	if thinned, err := m.superseded(ctx, c.manifest.Generation); err != nil || thinned {
		return nil, err
	}
	next := *c
	next.locks = locks
	return &next, nil
}
