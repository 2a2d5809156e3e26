package vault

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// runWriter writes the objects of one run. Extents must come by disk and offset.
type runWriter struct {
	*fetcher
	generation uint64
	epoch      block.Epoch
	compress   frame.Compression

	builder *frame.Builder
	nonce   uint32
	n       int    // objects written
	number  uint64 // of the frame being built, from 1
	index   []byte
	data    [][]byte
	size    int64
	span    runObject // of the object being built; no key yet
	hashes  hashWriter
	objects []runObject
	written []string // names of objects put, for taking them back
	bytes   int64    // their size
}

func newRunWriter(f *fetcher, generation uint64, epoch block.Epoch) *runWriter {
	w := &runWriter{fetcher: f, generation: generation, epoch: epoch, nonce: rand.Uint32(), hashes: newHashWriter(), builder: frame.NewBuilder(f.id)}
	w.resetFrame()
	return w
}

// add appends one extent: a write with its data, or a zeroed stretch for nil data.
func (w *runWriter) add(ctx context.Context, disk block.DiskID, e block.Extent, data []byte) error {
	op := frame.OpWrite
	if data == nil {
		op = frame.OpZero
	}
	if w.builder.Len()+len(data) > w.v.limits.runFrame && w.builder.Records() > 0 || !w.builder.Room(len(data)) {
		if err := w.closeFrame(ctx, disk, e.Off); err != nil {
			return err
		}
	}
	if w.span.FromDisk.IsZero() {
		w.span.FromDisk, w.span.From = disk, e.Off
	}
	w.span.ToDisk, w.span.To = disk, e.End()
	if data != nil {
		w.hashes.add(disk, e.Off, data)
	}
	return w.builder.Add(disk, op, e, data)
}

func (w *runWriter) resetFrame() {
	w.number++
	w.builder.Reset(frame.KindBase, w.epoch, block.Seq(w.number), time.Unix(0, 0))
}

// closeFrame ends the frame, and the object if it is large enough: preferably where a
// granule begins, so that no range hash is lost between two objects.
func (w *runWriter) closeFrame(ctx context.Context, disk block.DiskID, next int64) error {
	raw, err := w.builder.Append(nil, block.Seq(w.number), time.Unix(0, 0), w.compress)
	if err != nil {
		return err
	}
	f, err := frame.Parse(raw)
	if err != nil {
		return err
	}
	index, data := splitFrames([]*frame.Frame{f})
	w.index, w.data = append(w.index, index...), append(w.data, data...)
	w.size += int64(len(raw))
	w.resetFrame()
	aligned := next%block.CoarseGranule == 0 || disk != w.span.ToDisk || next != w.span.To
	if size := w.v.limits.runObject; w.size >= size && aligned || w.size >= 2*size {
		return w.closeObject(ctx)
	}
	return nil
}

func (w *runWriter) closeObject(ctx context.Context) error {
	name := runName(w.id, w.generation, w.n, w.nonce)
	w.written = append(w.written, name)
	sections := sealed.Sections{Index: w.index, Data: w.data, Hashes: w.hashes.out}
	err := w.seal(name, sealed.KindRun, w.generation, sections, func(object []byte) error {
		w.span.Key, w.span.Size = name, int64(len(object))
		return w.v.store.Put(ctx, name, object)
	})
	if err != nil {
		return err
	}
	w.v.metrics.stored(sealed.KindRun, w.span.Size)
	w.bytes += w.span.Size
	w.objects = append(w.objects, w.span)
	w.n++
	w.index, w.data, w.size, w.span, w.hashes = w.index[:0], nil, 0, runObject{}, newHashWriter()
	return nil
}

// takeBack deletes what was written and the newest manifest does not name: it does where
// a put that was called refused had been stored, or another thinning has built upon it.
// Should that fail, a later thinning collects it.
func (w *runWriter) takeBack(ctx context.Context, newest *manifest) {
	for _, name := range w.written {
		if !newest.names(name) {
			_ = w.v.store.Delete(context.WithoutCancel(ctx), name)
		}
	}
}

// flush ends the object that is being built, whatever its size.
func (w *runWriter) flush(ctx context.Context) error {
	if w.builder.Records() > 0 {
		if err := w.closeFrame(ctx, block.DiskID{}, 0); err != nil {
			return err
		}
	}
	if w.size > 0 {
		return w.closeObject(ctx)
	}
	return nil
}
