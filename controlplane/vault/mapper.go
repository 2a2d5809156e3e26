package vault

import (
	"bytes"
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/controlplane/vault/segment"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// mapper finds the newest bytes of a stretch of a disk in a line of layers.
type mapper struct {
	*fetcher
	layers []layer // oldest first
}

// window maps the largest part around off of a stretch that fits the limit: all of it,
// or the half, quarter… of it that off lies in. Halving while the layers are read
// costs no second pass, and every reader of a view arrives at the same windows.
func (m *mapper) window(ctx context.Context, disk block.DiskID, stretch block.Extent, off int64) (*window, error) {
	w := &window{disk: disk, off: stretch.Off, end: stretch.End()}
	var stack segment.Stack
	layers := m.layers
	for len(layers) > 0 {
		n := max(0, len(layers)-fetchBatch)
		batch, err := m.fetch(ctx, layers[n:], w)
		if err != nil {
			return nil, err
		}
		for i, l := range slices.Backward(layers[n:]) {
			stack.Push(w.add(batch[i], l))
			for stack.Count() > m.v.limits.segments && w.end-w.off > m.v.limits.minWindow {
				w.halve(off)
				stack.Clip(w.off, w.end)
			}
		}
		layers = layers[:n]
	}
	w.list = stack.List()
	w.compact()
	return w, nil
}

// fetch reads the heads of the layers that may touch the window.
func (m *mapper) fetch(ctx context.Context, layers []layer, w *window) ([]frames, error) {
	batch := make([]frames, len(layers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchWidth)
	for i, l := range layers {
		if l.run != nil && !l.run.touches(w) {
			continue
		}
		g.Go(func() (err error) {
			if batch[i], err = m.frames(ctx, l.key, l.kind); err != nil {
				return m.readError(l.key, w.disk, err)
			}
			return nil
		})
	}
	return batch, g.Wait()
}

// touches reports whether some extent of the object may lie in the window.
func (o *runObject) touches(w *window) bool {
	from, to := compareDisks(o.FromDisk, w.disk), compareDisks(o.ToDisk, w.disk)
	return from <= 0 && to >= 0 && (from < 0 || o.From < w.end) && (to > 0 || o.To > w.off)
}

// compareDisks is the order of disks within a run.
func compareDisks(a, b block.DiskID) int { return bytes.Compare(a[:], b[:]) }

// add lists what a layer says of the window, and enters its frames as sources.
func (w *window) add(o frames, l layer) segment.List {
	var lists []segment.List
	for _, h := range o.heads {
		if !l.holds(h.Header) {
			continue
		}
		var records []segment.Segment
		src := int32(-1)
		for e := range h.All() {
			x := e.Intersect(block.Extent{Off: w.off, Len: w.end - w.off})
			if e.Disk != w.disk || x.Empty() {
				continue
			}
			s := segment.Segment{Off: x.Off, End: x.End(), Src: segment.Zero}
			if e.Op == frame.OpWrite {
				if src < 0 {
					src = int32(len(w.sources))
					w.sources = append(w.sources, source{o.object, h.dataOff, h.Codec, int32(h.Raw)})
				}
				s.Src, s.At = src, int32(e.DataOff+x.Off-e.Off)
			}
			records = append(records, s)
		}
		if len(records) > 0 {
			lists = append(lists, segment.FromRecords(records))
		}
	}
	return segment.Fold(lists)
}

// halve keeps the half of the window that off lies in.
func (w *window) halve(off int64) {
	if mid := w.off + ((w.end-w.off)/2)&^(block.SectorSize-1); off < mid {
		w.end = mid
	} else {
		w.off = mid
	}
}

// compact drops sources that newer ones have covered whole.
func (w *window) compact() {
	used := make([]int32, len(w.sources))
	for _, s := range w.list {
		if s.Src >= 0 {
			used[s.Src] = 1
		}
	}
	kept := w.sources[:0]
	for i, src := range w.sources {
		if used[i] != 0 {
			used[i] = int32(len(kept))
			kept = append(kept, src)
		}
	}
	for i, s := range w.list {
		if s.Src >= 0 {
			w.list[i].Src = used[s.Src]
		}
	}
	w.sources = slices.Clip(kept)
}
