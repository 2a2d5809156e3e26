package vault

import (
	"context"
	"errors"
	"fmt"
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
	// …once an epoch has begun here. A writer that was superseded before it could store
	// that beginning has settled nothing.
	Over block.Position `json:"over"`
}

// beyond reports whether a base frame came too late to count. The log is known.
func (c *catalog) beyond(e block.Epoch, n uint64) bool {
	for _, f := range slices.Backward(c.manifest.Fences) {
		if over := c.epoch(f.Over.Epoch); f.Epoch == e && over != nil && over.Begin == f.Over.Seq {
			return n > f.Base
		}
	}
	return false
}

// unfenced are the epochs that are over in next, not in c, and have no whole base.
func (c *catalog) unfenced(next *catalog) (list []fence) {
	for _, e := range next.epochs {
		if e.Epoch < c.last.pos.Epoch || e.Epoch >= next.last.pos.Epoch || e.Complete != 0 && e.Committed >= e.BaseFrames {
			continue
		}
		begun := next.last.pos.Epoch
		f := fence{e.Epoch, e.Committed, block.Position{Epoch: begun, Seq: next.epoch(begun).Begin}}
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
