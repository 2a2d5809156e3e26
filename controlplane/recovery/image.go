// Package recovery brings a disk back as it was at one position of its machine's
// log. The past comes in as an Image, which the vault provides; Materialise writes
// it to a file, the packages beside this one cache it, put a writable overlay over
// it and serve it over NBD.
package recovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Extent is a stretch of an Image, in bytes. Zero says that it is known to read as
// zeros without being read.
type Extent struct {
	Off, Len int64
	Zero     bool
}

// End is the first byte after the extent.
func (e Extent) End() int64 { return e.Off + e.Len }

// Image is one disk of a machine at one position. It never changes, and all its
// methods are safe for concurrent use.
type Image interface {
	// ReadAt fills p from byte off, at any alignment. What was never written reads
	// as zeros. Past Size it ends with io.EOF.
	io.ReaderAt

	// Size is the size of the disk at this position, in bytes.
	Size() int64

	// Extents yields what lies in [off, off+length), ascending and not overlapping.
	// Gaps between extents are zeros. An error ends the sequence.
	Extents(ctx context.Context, off, length int64) iter.Seq2[Extent, error]
}

// ErrChangesUnknown is what a Changer yields when it cannot tell two positions
// apart, for example because thinning has removed the other one.
var ErrChangesUnknown = errors.New("the changes between the two points are not known")

// Changer is an Image that knows where it differs from another position of the
// same disk, be that newer or older.
type Changer interface {
	Image

	// Changed yields, ascending, a superset of the bytes of this image that differ
	// from those at the other position.
	Changed(ctx context.Context, other block.Position) iter.Seq2[block.Extent, error]
}

// Lot is a part of an image that is cheap to read at once though it may lie all over the
// disk.
type Lot interface {
	Off() int64 // of the lot's first byte on the disk
	Len() int64 // bytes of the disk in the lot
	// Read gives put each stretch of the lot, ascending. put must not keep the bytes.
	Read(ctx context.Context, put func(off int64, p []byte) error) error
}

// Hoard is an Image that would rather be read whole in another order than the disk's.
type Hoard interface {
	Image

	// Lots yields everything but zeros from off on, ordered by where the lots begin.
	Lots(ctx context.Context, off int64) iter.Seq2[Lot, error]
}

// Map yields the extents of [off, off+length) without gaps: what img leaves out
// comes as a Zero extent, neighbours of one kind come as one, and nothing reaches
// outside the range. It is the form that consumers want, whatever the image's style.
func Map(ctx context.Context, img Image, off, length int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		end := min(off+length, img.Size())
		held := Extent{Off: off}
		put := func(next Extent) bool {
			if held.join(next) {
				return true
			}
			out := held
			held = next
			return yield(out, nil)
		}
		for e, err := range img.Extents(ctx, off, end-off) {
			at := held.End()
			if err == nil && e.Off < at && e.Off >= off {
				err = fmt.Errorf("recovery: the image's extents overlap or go back: %d after %d", e.Off, at)
			}
			if err != nil {
				yield(Extent{}, err)
				return
			}
			if e = e.within(at, end); e.Len <= 0 {
				continue
			}
			if !put(Extent{Off: at, Len: e.Off - at, Zero: true}) || !put(e) {
				return
			}
		}
		at := held.End()
		if put(Extent{Off: at, Len: end - at, Zero: true}) && held.Len > 0 {
			yield(held, nil)
		}
	}
}

// within is the part of e inside [off, end).
func (e Extent) within(off, end int64) Extent {
	from, to := max(e.Off, off), min(e.End(), end)
	return Extent{Off: from, Len: to - from, Zero: e.Zero}
}

// join grows e by its direct neighbour next, if they are of one kind or one of them
// is empty.
func (e *Extent) join(next Extent) bool {
	switch {
	case next.Len <= 0:
	case e.Len == 0:
		*e = next
	case e.Zero == next.Zero:
		e.Len += next.Len
	default:
		return false
	}
	return true
}

// ReadFull fills p from img at off, all of it or an error.
func ReadFull(img io.ReaderAt, p []byte, off int64) error {
	n, err := img.ReadAt(p, off)
	if n == len(p) {
		return nil // io.ReaderAt may report EOF together with the last byte
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
