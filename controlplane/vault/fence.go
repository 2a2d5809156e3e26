package vault

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/pkg/block"
)

// A writer looks at its lease and then puts. One that is held up in between may store a
// base object when another has begun the next epoch, whose copies were compared with a
// base without it. A fence says how much of an unfinished base counts, for ever: the
// writer that begins the next epoch puts it down first, in the next manifest.

// fence is an epoch that is over though its base was not whole.
type fence struct {
	Epoch block.Epoch `json:"epoch"`
	Base  uint64      `json:"base"` // base frames that count…
	// …once this writer has begun an epoch here. One that was superseded before it could
	// store that beginning has settled nothing, and which of two did, the place tells.
	Over   block.Position `json:"over"`
	Writer uint64         `json:"writer"` // its lease
}

// fence is the one that settles an epoch's base; false if none does. The log is known.
func (c *catalog) fence(e block.Epoch) (fence, bool) {
	for _, f := range c.manifest.Fences {
		over := c.epoch(f.Over.Epoch)
		if f.Epoch == e && over != nil && over.Begin == f.Over.Seq && over.Writer == f.Writer {
			return f, true
		}
	}
	return fence{}, false
}

// beyond reports whether a base frame came too late to count. The log is known.
func (c *catalog) beyond(e block.Epoch, n uint64) bool {
	f, settled := c.fence(e)
	return settled && n > f.Base
}

// fencedBy reports whether a writer has put down a fence for an epoch's base, if only
// because it was about to begin the next.
func (c *catalog) fencedBy(e block.Epoch, writer uint64) bool {
	return slices.ContainsFunc(c.manifest.Fences, func(f fence) bool { return f.Epoch == e && f.Writer == writer })
}

// settledBase is how many base frames of an epoch that is over were stored when it ended;
// 0 if the runs hold them. Where no fence says it, the base was whole.
func (c *catalog) settledBase(e block.Epoch) uint64 {
	facts := c.epoch(e)
	if facts == nil || e >= c.last.pos.Epoch || c.manifest.holdsBase(e, math.MaxUint64) {
		return 0
	}
	if f, ok := c.fence(e); ok {
		return f.Base
	}
	return facts.BaseFrames
}

// torn reports whether a position's epoch, or one before it, lacks a part of its base that
// counts.
func (c *catalog) torn(e block.Epoch) bool { return c.hole != 0 && e >= c.hole }

// unsettled reports whether an epoch is over whose base has no fence, and whole or not is
// what is stored of it: true only of the manifest that was the newest when that was read.
func (c *catalog) unsettled() bool {
	return slices.ContainsFunc(c.epochs, func(e *Epoch) bool {
		_, settled := c.fence(e.Epoch)
		return e.Epoch < c.last.pos.Epoch && !settled && !c.manifest.holdsBase(e.Epoch, math.MaxUint64)
	})
}

// unfenced are the epochs that are over in next, not in c, and have no whole base.
func (c *catalog) unfenced(next *catalog, writer uint64) (list []fence) {
	for _, e := range next.epochs {
		if e.Epoch < c.last.pos.Epoch || e.Epoch >= next.last.pos.Epoch || e.Complete != 0 && e.Committed >= e.BaseFrames {
			continue
		}
		begun := next.last.pos.Epoch
		f := fence{e.Epoch, e.Committed, block.Position{Epoch: begun, Seq: next.epoch(begun).Begin}, writer}
		if !slices.Contains(c.manifest.Fences, f) {
			list = append(list, f)
		}
	}
	return list
}

// fence settles the bases of epochs that are about to be over, in the manifest that it
// returns. load is held.
func (m *Machine) fence(ctx context.Context, c *catalog, list []fence) (*manifest, error) {
	if newer, err := m.superseded(ctx, c.manifest.Generation); err != nil {
		return nil, err
	} else if newer {
		return nil, m.outdated(ctx)
	}
	mf := c.manifest.successor()
	mf.Fences = slices.DeleteFunc(slices.Clone(mf.Fences), func(f fence) bool { return f.Epoch < mf.Through.Epoch })
	mf.Fences = append(mf.Fences, list...)
	name := numbered(manifestPrefix(m.id), mf.Generation)
	if err := m.putDocument(ctx, name, mf.Generation, mf); err != nil {
		if errors.Is(err, objstore.ErrExists) {
			return nil, m.outdated(ctx)
		}
		return nil, fmt.Errorf("vault: settling the unfinished base of machine %s: %w", m.id, err)
	}
	// As in commitManifest: the names of manifests that were deleted are free.
	if newer, err := m.superseded(ctx, mf.Generation); err != nil {
		return nil, err
	} else if newer {
		return nil, m.outdated(ctx)
	}
	next := *c
	next.manifest = mf
	m.publish(&next)
	return mf, nil
}

// outdated takes in another process's manifest; what was to be done must be tried again.
func (m *Machine) outdated(ctx context.Context) error {
	_, err := m.reread(ctx)
	return errors.Join(errOvertaken, err)
}
