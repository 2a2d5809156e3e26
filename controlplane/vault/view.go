package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/vault/segment"
	"github.com/understudy-dr/understudy/pkg/block"
)

// View is a machine's disks as they were at one recovery point. It is safe for
// concurrent use. While it is open, thinning by this process keeps its point.
//
// Memory: a view maps a stretch of a disk when it is first read, as large a stretch
// as fits into limits.segments pieces of 24 bytes, and keeps keepWindows of them:
// at most 200 MB, far less for all but the most fragmented disks. Indexes and payloads
// are in the vault's shared caches.
type View struct {
	m     *Machine
	point block.Position
	disks []Disk
	// unretained: the position need not be a recovery point.
	unretained bool

	mu      sync.Mutex
	layers  []layer   // oldest first
	windows []*window // most recently used first
	closed  bool
}

// keepWindows is how many stretches of disks a view keeps mapped.
const keepWindows = 4

// Extent is a stretch of a disk at a point. Stretches that no frame ever touched are
// zeros, too, but are not yielded.
type Extent struct {
	block.Extent
	Zero bool // reads as zeros: was zeroed or discarded
}

// View opens the machine's disks at a recovery point. Close it after use.
func (m *Machine) View(ctx context.Context, p block.Position) (*View, error) {
	m.hold(p) // first, so that no thinning takes the point away meanwhile
	c, err := m.snapshot(ctx)
	if err == nil && !c.retained(p) {
		err = c.noPoint(p.String(), "that position is not a retained recovery point")
	}
	if err != nil {
		m.letGo(p)
		return nil, err
	}
	return &View{m: m, point: p, disks: c.epoch(p.Epoch).Disks, layers: c.layers(p)}, nil
}

func (m *Machine) hold(p block.Position) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.views[p]++
}

func (m *Machine) letGo(p block.Position) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.views[p]--; m.views[p] == 0 {
		delete(m.views, p)
	}
}

// Close gives the point back to the retention.
func (v *View) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil
	}
	v.closed, v.windows, v.layers = true, nil, nil
	v.m.letGo(v.point)
	return nil
}

// Position is the point viewed.
func (v *View) Position() block.Position { return v.point }

// Disks are the machine's disks at the point.
func (v *View) Disks() []Disk { return slices.Clone(v.disks) }

func (v *View) disk(id block.DiskID) (Disk, error) {
	i := slices.IndexFunc(v.disks, func(d Disk) bool { return d.ID == id })
	if i < 0 {
		return Disk{}, fmt.Errorf("%w: %s in machine %s at %v", ErrNoDisk, id, v.m.id, v.point)
	}
	return v.disks[i], nil
}

// ReadAt fills p with a disk's bytes from off on. At the disk's end it returns what
// there is, and io.EOF. Every byte comes from a payload that was authenticated; what
// cannot be is an error that names the object.
func (v *View) ReadAt(ctx context.Context, disk block.DiskID, p []byte, off int64) (int, error) {
	d, err := v.disk(disk)
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("vault: negative offset %d on disk %s", off, disk)
	}
	if off >= d.Size {
		return 0, io.EOF
	}
	short := int64(len(p)) > d.Size-off
	if short {
		p = p[:d.Size-off]
	}
	for done := 0; done < len(p); {
		n, err := v.readWindow(ctx, d, p[done:], off+int64(done))
		if err != nil {
			return done, err
		}
		done += n
	}
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}

// readWindow reads up to the end of the window that off lies in. Where a thinning by
// another process has replaced objects, the window is mapped anew.
func (v *View) readWindow(ctx context.Context, d Disk, p []byte, off int64) (n int, err error) {
	err = v.retry(ctx, func() error {
		n, err = v.tryWindow(ctx, d, p, off)
		return err
	})
	return n, err
}

// retry calls fn again with new layers while objects are gone: one thinning after the
// other may replace them.
func (v *View) retry(ctx context.Context, fn func() error) error {
	for attempt := 1; ; attempt++ {
		err := fn()
		if attempt == loadAttempts || !errors.Is(err, objstore.ErrNotFound) {
			return err
		}
		if err := v.remap(ctx); err != nil {
			return err
		}
	}
}

// mapped is window, tried again where objects are gone.
func (v *View) mapped(ctx context.Context, d Disk, off int64) (w *window, err error) {
	err = v.retry(ctx, func() error {
		w, err = v.window(ctx, d, off)
		return err
	})
	return w, err
}

func (v *View) tryWindow(ctx context.Context, d Disk, p []byte, off int64) (int, error) {
	w, err := v.window(ctx, d, off)
	if err != nil {
		return 0, err
	}
	p = p[:min(int64(len(p)), w.end-off)]
	return len(p), w.read(ctx, &v.m.fetcher, p, off)
}

// remap takes the layers of the history as it is now.
func (v *View) remap(ctx context.Context) error {
	v.m.load.Lock()
	defer v.m.load.Unlock()
	c, err := v.m.reread(ctx)
	if err != nil {
		return err
	}
	if !c.retained(v.point) && !(v.unretained && c.reaches(v.point)) {
		return c.noPoint(v.point.String(), "it has been thinned away since it was opened")
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.layers, v.windows = c.layers(v.point), nil
	return nil
}

// Extents yields what frames say of a disk, in ascending order.
func (v *View) Extents(ctx context.Context, disk block.DiskID) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		d, err := v.disk(disk)
		if err != nil {
			yield(Extent{}, err)
			return
		}
		var held Extent // joined with what follows it before it is yielded
		for off := int64(0); off < d.Size; {
			w, err := v.mapped(ctx, d, off)
			if err != nil {
				yield(Extent{}, err)
				return
			}
			for _, s := range w.list[w.list.Find(off):] {
				from := max(s.Off, off) // a window mapped anew may begin earlier
				e := Extent{block.Extent{Off: from, Len: s.End - from}, s.Src < 0}
				if held.Zero == e.Zero && held.End() == e.Off && !held.Empty() {
					held.Len += e.Len
					continue
				}
				if !held.Empty() && !yield(held, nil) {
					return
				}
				held = e
			}
			off = w.end
		}
		if !held.Empty() {
			yield(held, nil)
		}
	}
}

// window finds or maps the window of a disk that off lies in. One is mapped at a
// time: parallel readers mostly want the same.
func (v *View) window(ctx context.Context, d Disk, off int64) (*window, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil, fmt.Errorf("vault: the view of machine %s at %v is closed", v.m.id, v.point)
	}
	i := slices.IndexFunc(v.windows, func(w *window) bool { return w.disk == d.ID && w.off <= off && off < w.end })
	if i >= 0 {
		w := v.windows[i]
		v.windows = slices.Insert(slices.Delete(v.windows, i, i+1), 0, w)
		return w, nil
	}
	m := mapper{fetcher: &v.m.fetcher, layers: v.layers}
	w, err := m.window(ctx, d.ID, block.Extent{Len: d.Size}, off)
	if err != nil {
		return nil, err
	}
	v.windows = slices.Insert(v.windows, 0, w)
	v.windows = v.windows[:min(len(v.windows), keepWindows)]
	return w, nil
}

// window maps a stretch of a disk to the payloads that hold its newest bytes.
type window struct {
	disk     block.DiskID
	off, end int64
	list     segment.List
	sources  []source
}

// read fills p from the window's sources, and with zeros where there are none.
func (w *window) read(ctx context.Context, f *fetcher, p []byte, off int64) error {
	end := off + int64(len(p))
	for i := w.list.Find(off); i < len(w.list) && w.list[i].Off < end; i++ {
		s := w.list[i]
		clear(p[:max(0, s.Off-off)])
		p = p[max(0, s.Off-off):]
		off = max(off, s.Off)
		part := p[:min(s.End, end)-off]
		if s.Src < 0 {
			clear(part)
		} else if err := f.readPayload(ctx, w.sources[s.Src], part, int64(s.At)+off-s.Off); err != nil {
			return f.readError(w.sources[s.Src].key, w.disk, err)
		}
		p, off = p[len(part):], off+int64(len(part))
	}
	clear(p)
	return nil
}
