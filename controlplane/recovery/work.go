package recovery

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"

	"github.com/understudy-dr/understudy/pkg/block"
)

const (
	// pieceSize is the most that is read and written at once, in bytes. Pieces do
	// not cross multiples of it, so writes are large and aligned.
	pieceSize = 4 << 20
	// grain is the unit in which zeros are looked for, in bytes, and the widest gap
	// that is read and written along with its neighbours rather than left out. One
	// larger request is cheaper than two, and what lies in the gap is right anyway.
	grain = 64 << 10
)

// work is what must be written to a target, in ascending order.
type work struct {
	image   Image
	regions []block.Extent // of the image
	holes   bool           // zeros must be made where the file may have other content
	hoard   Hoard          // if not nil: read by lots, from the first region's beginning on
}

// plannedWork finds the work of a plan. A patch for which the image cannot name the
// changes becomes a fill from nothing.
func plannedWork(ctx context.Context, p *plan) (work, error) {
	img := p.disk.Image
	if p.act == actPatch {
		regions, err := changes(ctx, p)
		if err == nil {
			return work{image: img, regions: regions, holes: true}, nil
		}
		if !errors.Is(err, ErrChangesUnknown) {
			return work{}, err
		}
		p.act, p.from = actFill, 0
	}
	if p.act == actNothing || p.from >= img.Size() {
		return work{image: img}, nil
	}
	w := work{image: img, regions: []block.Extent{{Off: p.from, Len: img.Size() - p.from}}}
	w.hoard, _ = img.(Hoard)
	return w, nil
}

// changes are the regions in which the image may differ from what the target holds.
func changes(ctx context.Context, p *plan) ([]block.Extent, error) {
	img, ok := p.disk.Image.(Changer)
	if !ok {
		return nil, ErrChangesUnknown
	}
	size := img.Size()
	var all []block.Extent
	for _, position := range p.holds {
		for e, err := range img.Changed(ctx, position) {
			if err != nil {
				return nil, err
			}
			if e = e.Intersect(block.Extent{Len: size}); !e.Empty() {
				all = append(all, e)
			}
		}
	}
	if p.found.Size < size { // the disk has grown: the new part was in no position held
		all = append(all, block.Extent{Off: p.found.Size, Len: size - p.found.Size})
	}
	return coalesce(all), nil
}

// coalesce sorts extents and joins those that overlap or lie less than a grain apart.
func coalesce(all []block.Extent) []block.Extent {
	slices.SortFunc(all, func(a, b block.Extent) int { return cmp.Compare(a.Off, b.Off) })
	out := all[:0]
	for _, e := range all {
		if n := len(out); n > 0 && e.Off <= out[n-1].End()+grain {
			out[n-1].Len = max(out[n-1].End(), e.End()) - out[n-1].Off
			continue
		}
		out = append(out, e)
	}
	return out
}

// pieces yields the work: data in pieces of at most pieceSize, and the zero
// stretches between if they have to be made.
func (w work) pieces(ctx context.Context) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		for _, r := range w.regions {
			for e, err := range smoothed(Map(ctx, w.image, r.Off, r.Len)) {
				if err != nil {
					yield(Extent{}, err)
					return
				}
				if e.Zero {
					if w.holes && !yield(e, nil) {
						return
					}
					continue
				}
				for e.Len > 0 {
					p := e.within(e.Off, e.Off-e.Off%pieceSize+pieceSize)
					if !yield(p, nil) {
						return
					}
					e = e.within(p.End(), e.End())
				}
			}
		}
	}
}

// lots is the work of a hoard.
func (w work) lots(ctx context.Context) iter.Seq2[Lot, error] {
	return w.hoard.Lots(ctx, w.regions[0].Off)
}

// total is the number of data bytes in the work.
func (w work) total(ctx context.Context) (n int64, err error) {
	if w.hoard != nil {
		for l, err := range w.lots(ctx) {
			if err != nil {
				return 0, err
			}
			n += l.Len()
		}
		return n, nil
	}
	for p, err := range w.pieces(ctx) {
		if err != nil {
			return 0, err
		}
		if !p.Zero {
			n += p.Len
		}
	}
	return n, nil
}

// smoothed turns zero stretches shorter than a grain into data where they lie
// between data.
func smoothed(extents iter.Seq2[Extent, error]) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		var held Extent // data, perhaps to be continued
		var gap Extent  // zeros after it
		for e, err := range extents {
			switch {
			case err != nil:
				yield(Extent{}, err)
				return
			case e.Zero && held.Len > 0 && e.Len < grain:
				gap = e
				continue
			case !e.Zero && gap.Len > 0:
				held.Len, gap = e.End()-held.Off, Extent{}
				continue
			}
			if held.Len > 0 && !yield(held, nil) {
				return
			}
			if held = e; e.Zero {
				if !yield(e, nil) {
					return
				}
				held = Extent{}
			}
		}
		for _, e := range [...]Extent{held, gap} {
			if e.Len > 0 && !yield(e, nil) {
				return
			}
		}
	}
}
