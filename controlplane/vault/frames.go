package vault

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// Frames yields the log's frames behind after, up to and including the one that ends
// with upto, byte for byte as they came. Marks and ticks are among them, base frames are
// not. What thinning has merged has no frames any more: asking for it is an error.
func (m *Machine) Frames(ctx context.Context, after, upto block.Seq) iter.Seq2[*frame.Frame, error] {
	return func(yield func(*frame.Frame, error) bool) {
		c, err := m.snapshot(ctx)
		if err == nil && (after < c.manifest.Log.Seq || upto > c.last.pos.Seq) {
			err = fmt.Errorf("vault: frames %d..%d of machine %s: only %d..%d are stored as they came", after+1, upto, m.id, c.manifest.Log.Seq+1, c.last.pos.Seq)
		}
		if err != nil {
			yield(nil, err)
			return
		}
		first := slices.IndexFunc(c.logs, func(l logRef) bool { return l.last > after })
		for i := first; i >= 0 && i < len(c.logs) && c.logs[i].first <= upto; i++ {
			if !m.framesOf(ctx, c.logs[i].key, after, upto, yield) {
				return
			}
		}
	}
}

// framesOf yields those of one object; false if that was the last.
func (m *Machine) framesOf(ctx context.Context, key string, after, upto block.Seq, yield func(*frame.Frame, error) bool) bool {
	o, err := m.frames(ctx, key, sealed.KindLog)
	if err != nil {
		yield(nil, fmt.Errorf("vault: %s: %w", key, err))
		return false
	}
	for _, h := range o.heads {
		if h.First <= after || h.Last > upto {
			continue
		}
		f, err := m.whole(ctx, o.object, h, nil)
		if err != nil {
			err = fmt.Errorf("vault: frame %v in %s: %w", h.Position(), key, err)
		}
		if !yield(f, err) || err != nil {
			return false
		}
	}
	return true
}

// whole puts a frame together again and verifies it. The frame lies in buf if that has
// the room.
func (f *fetcher) whole(ctx context.Context, o *object, h head, buf []byte) (*frame.Frame, error) {
	raw := slices.Grow(buf[:0], h.Size())[:h.Size()]
	n := copy(raw, h.raw)
	if err := f.readData(ctx, o, raw[n:], h.dataOff); err != nil {
		return nil, err
	}
	return frame.Parse(raw)
}
