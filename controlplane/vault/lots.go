package vault

import (
	"cmp"
	"context"
	"iter"
	"slices"

	"github.com/understudy-dr/understudy/controlplane/vault/segment"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// Lot is what one frame holds of a disk at a point: stretches that may lie all over the
// disk. Who wants the whole disk reads it lot by lot and has each frame decompressed
// once; in the order of the disk it would be decompressed for every stretch anew, as soon
// as the frames that are written all over the disk exceed the payload cache.
type Lot struct {
	view   *View
	disk   block.DiskID
	source source
	parts  []segment.Segment // ascending
}

// Off is where the lot's first byte lies on the disk.
func (l *Lot) Off() int64 { return l.parts[0].Off }

// Len is how many bytes the lot holds of the disk.
func (l *Lot) Len() (n int64) {
	for _, s := range l.parts {
		n += s.End - s.Off
	}
	return n
}

// Lots yields everything but zeros that a disk holds from off on, ordered by where the
// lots begin: what lies before the one that is yielded is in those yielded before it.
// While a stretch is worked through its segments are in memory twice (see View).
func (v *View) Lots(ctx context.Context, disk block.DiskID, off int64) iter.Seq2[Lot, error] {
	return func(yield func(Lot, error) bool) {
		d, err := v.disk(disk)
		for err == nil && off < d.Size {
			var w *window
			if w, err = v.mapped(ctx, d, off); err != nil {
				break
			}
			for _, parts := range w.bySource(off) {
				if !yield(Lot{v, disk, w.sources[parts[0].Src], parts}, nil) {
					return
				}
			}
			off = w.end
		}
		if err != nil {
			yield(Lot{}, err)
		}
	}
}

// bySource groups the segments from off on by where their bytes come from.
func (w *window) bySource(off int64) (groups [][]segment.Segment) {
	all := slices.DeleteFunc(w.list.Clip(off, w.end), func(s segment.Segment) bool { return s.Src < 0 })
	slices.SortFunc(all, func(a, b segment.Segment) int { return cmp.Or(cmp.Compare(a.Src, b.Src), cmp.Compare(a.Off, b.Off)) })
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n].Src == all[0].Src {
			n++
		}
		groups, all = append(groups, all[:n:n]), all[n:]
	}
	slices.SortFunc(groups, func(a, b []segment.Segment) int { return cmp.Compare(a[0].Off, b[0].Off) })
	return groups
}

// Read gives put each stretch of the lot, ascending. put must not keep the bytes.
func (l *Lot) Read(ctx context.Context, put func(off int64, p []byte) error) error {
	f := &l.view.m.fetcher
	buf, _ := f.v.raw.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	defer f.v.raw.Put(buf)
	raw, at, err := l.load(ctx, f, *buf)
	if err != nil {
		// The object may have been replaced by a thinning, or be damaged where this lot has
		// no need of it; what is really wrong shows stretch by stretch.
		return l.readAnew(ctx, put)
	}
	*buf = raw
	for _, s := range l.parts {
		p := raw[int64(s.At)-at:]
		if err := put(s.Off, p[:s.End-s.Off]); err != nil {
			return err
		}
	}
	return nil
}

// load reads the payload, or of an uncompressed one what the lot needs. at is where in
// the payload it begins.
func (l *Lot) load(ctx context.Context, f *fetcher, buf []byte) (raw []byte, at int64, err error) {
	if l.source.codec != frame.CodecRaw {
		raw, err = f.unpack(ctx, l.source, buf)
		return raw, 0, err
	}
	at, end := int64(l.source.raw), int64(0)
	for _, s := range l.parts {
		at, end = min(at, int64(s.At)), max(end, int64(s.At)+s.End-s.Off)
	}
	raw = slices.Grow(buf[:0], int(end-at))[:end-at]
	return raw, at, f.readData(ctx, l.source.object, raw, l.source.dataOff+at)
}

// readAnew reads a lot stretch by stretch, as in the order of the disk.
func (l *Lot) readAnew(ctx context.Context, put func(off int64, p []byte) error) error {
	for _, s := range l.parts {
		p := make([]byte, s.End-s.Off)
		if _, err := l.view.ReadAt(ctx, l.disk, p, s.Off); err != nil {
			return err
		}
		if err := put(s.Off, p); err != nil {
			return err
		}
	}
	return nil
}
