package vault

import (
	"bytes"
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
	"github.com/understudy-dr/understudy/controlplane/vault/segment"
	"github.com/understudy-dr/understudy/pkg/block"
)

// merger writes the newest bytes of some layers as objects of one run.
type merger struct {
	*runWriter
	// bottom is whether nothing lies below the run: zeros need not be stored then.
	bottom bool
	buf    []byte
}

// place is a byte of a machine, in the order in which runs are sorted.
type place struct {
	disk block.DiskID
	off  int64
}

func (p place) compare(q place) int {
	return cmp.Or(bytes.Compare(p.disk[:], q.disk[:]), cmp.Compare(p.off, q.off))
}

func (o *runObject) from() place { return place{o.FromDisk, o.From} }
func (o *runObject) to() place   { return place{o.ToDisk, o.To} }

// everywhere is more than any disk has.
var everywhere = block.Extent{Len: math.MaxInt64}

// within is the stretch of a disk that lies between two places.
func within(disk block.DiskID, from, to place) block.Extent {
	e := everywhere
	if disk == from.disk {
		e = block.Extent{Off: from.off, Len: math.MaxInt64 - from.off}
	}
	if disk == to.disk {
		e = e.Intersect(block.Extent{Len: to.off})
	}
	return e
}

// rewrite writes what layers (oldest first) say between two places.
func (m *merger) rewrite(ctx context.Context, layers []layer, from, to place) error {
	ends, err := m.ends(ctx, layers)
	if err != nil {
		return err
	}
	for _, end := range ends {
		e := within(end.disk, from, to).Intersect(block.Extent{Len: end.off})
		if end.compare(from) <= 0 || (place{disk: end.disk}).compare(to) >= 0 || e.Empty() {
			continue
		}
		if err := m.rewriteDisk(ctx, layers, end.disk, e); err != nil {
			return err
		}
	}
	return nil
}

// ends lists the disks that layers have extents of, in order, each with the end of
// the last one.
func (m *merger) ends(ctx context.Context, layers []layer) ([]place, error) {
	last := make(map[block.DiskID]int64)
	for _, l := range layers {
		o, err := m.frames(ctx, l.key, l.kind)
		if err != nil {
			return nil, m.readError(l.key, block.DiskID{}, err)
		}
		for _, h := range o.heads {
			if !l.holds(h.Header) {
				continue
			}
			for e := range h.All() {
				last[e.Disk] = max(last[e.Disk], e.End())
			}
		}
	}
	ends := make([]place, 0, len(last))
	for disk, off := range last {
		ends = append(ends, place{disk, off})
	}
	slices.SortFunc(ends, place.compare)
	return ends, nil
}

func (m *merger) rewriteDisk(ctx context.Context, layers []layer, disk block.DiskID, e block.Extent) error {
	maps := mapper{fetcher: m.fetcher, layers: layers}
	for off := e.Off; off < e.End(); {
		w, err := maps.window(ctx, disk, e, off)
		if err != nil {
			return err
		}
		for _, s := range w.list.Clip(off, w.end) {
			if err := m.copy(ctx, w, s); err != nil {
				return err
			}
		}
		off = w.end
	}
	return nil
}

// copy writes one segment, its data in pieces that end where granules do.
func (m *merger) copy(ctx context.Context, w *window, s segment.Segment) error {
	if s.Src < 0 {
		if m.bottom {
			return nil
		}
		return m.add(ctx, w.disk, block.Extent{Off: s.Off, Len: s.End - s.Off}, nil)
	}
	if m.buf == nil {
		m.buf = make([]byte, m.v.limits.runFrame)
	}
	src := w.sources[s.Src]
	for off := s.Off; off < s.End; {
		n := min(s.End-off, int64(len(m.buf))-off%int64(len(m.buf)))
		if err := m.readPayload(ctx, src, m.buf[:n], int64(s.At)+off-s.Off); err != nil {
			return m.readError(src.key, w.disk, err)
		}
		if err := m.add(ctx, w.disk, block.Extent{Off: off, Len: n}, m.buf[:n]); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// input is an object of one of the runs being merged.
type input struct {
	*runObject
	run int // the higher, the newer
}

// merge writes adjacent runs (oldest first) as one. Objects that overlap with no
// other stay as they are.
func (m *merger) merge(ctx context.Context, runs []run) error {
	var inputs []input
	for i := range runs {
		for j := range runs[i].Objects {
			inputs = append(inputs, input{&runs[i].Objects[j], i})
		}
	}
	slices.SortStableFunc(inputs, func(a, b input) int { return a.from().compare(b.from()) })
	for len(inputs) > 0 {
		n, end := 1, inputs[0].to()
		for n < len(inputs) && inputs[n].from().compare(end) < 0 {
			if to := inputs[n].to(); to.compare(end) > 0 {
				end = to
			}
			n++
		}
		if err := m.mergeCluster(ctx, inputs[:n], end); err != nil {
			return err
		}
		inputs = inputs[n:]
	}
	return m.flush(ctx)
}

// mergeCluster merges objects that overlap. It goes by the objects of the oldest run
// among them: one that no newer extent touches is kept, the others are rewritten.
func (m *merger) mergeCluster(ctx context.Context, inputs []input, end place) error {
	oldest := slices.MinFunc(inputs, func(a, b input) int { return cmp.Compare(a.run, b.run) }).run
	var below, above []input
	for _, in := range inputs {
		if in.run == oldest {
			below = append(below, in)
		} else {
			above = append(above, in)
		}
	}
	slices.SortStableFunc(above, func(a, b input) int { return cmp.Compare(a.run, b.run) })
	from := inputs[0].from()
	for i, old := range below {
		to := end
		if i+1 < len(below) {
			to = below[i+1].from()
		}
		newer, err := m.touching(ctx, above, from, to)
		if err != nil {
			return err
		}
		// A small object is rewritten all the same, together with its neighbours.
		if len(newer) == 0 && old.Size >= m.v.limits.runObject/2 {
			if err := m.keep(ctx, *old.runObject); err != nil {
				return err
			}
		} else if err := m.rewrite(ctx, append([]layer{layerOf(old)}, newer...), from, to); err != nil {
			return err
		}
		from = to
	}
	return nil
}

func layerOf(in input) layer {
	return layer{key: in.Key, kind: sealed.KindRun, run: in.runObject}
}

// keep takes an object over as it is.
func (m *merger) keep(ctx context.Context, o runObject) error {
	if err := m.flush(ctx); err != nil {
		return err
	}
	m.objects = append(m.objects, o)
	return nil
}

// touching lists the layers that have an extent between two places.
func (m *merger) touching(ctx context.Context, inputs []input, from, to place) ([]layer, error) {
	var layers []layer
	for _, in := range inputs {
		if in.from().compare(to) >= 0 || in.to().compare(from) <= 0 {
			continue
		}
		o, err := m.frames(ctx, in.Key, sealed.KindRun)
		if err != nil {
			return nil, m.readError(in.Key, in.FromDisk, err)
		}
		if o.touches(from, to) {
			layers = append(layers, layerOf(in))
		}
	}
	return layers, nil
}

// touches reports whether an extent of the object lies between two places.
func (o frames) touches(from, to place) bool {
	for _, h := range o.heads {
		for e := range h.All() {
			if e.Overlaps(within(e.Disk, from, to)) && (place{e.Disk, e.Off}).compare(to) < 0 && (place{e.Disk, e.End()}).compare(from) > 0 {
				return true
			}
		}
	}
	return false
}
