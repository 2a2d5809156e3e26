// Package recoverytest has an in-memory disk with a history, for tests of whatever
// works on a recovery.Image.
package recoverytest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"sync/atomic"

	"github.com/understudy-dr/understudy/controlplane/recovery"
	"github.com/understudy-dr/understudy/pkg/block"
)

// grain is the unit in which a Disk reports its extents, in bytes.
const grain = 4096

// ErrBroken is the error of a Disk told to fail.
var ErrBroken = errors.New("the image is broken here")

// Disk is a disk at one position, whole in memory. It implements recovery.Image and
// recovery.Changer.
type Disk struct {
	Data     []byte
	Position block.Position
	Others   []*Disk // other positions of the same disk that Changed can compare with

	FailAt int64 // reads that touch this byte fail, if positive
	Reads  atomic.Int64
	OnRead func(off int64) // called before each read, if set
}

var _ recovery.Changer = (*Disk)(nil)

// Size is the disk's size in bytes.
func (d *Disk) Size() int64 { return int64(len(d.Data)) }

// ReadAt reads from memory.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	d.Reads.Add(1)
	if d.OnRead != nil {
		d.OnRead(off)
	}
	if d.FailAt > 0 && off <= d.FailAt && d.FailAt < off+int64(len(p)) {
		return 0, ErrBroken
	}
	if off >= d.Size() {
		return 0, io.EOF
	}
	n := copy(p, d.Data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Extents yields each grain that is not all zeros; every other zero grain comes as
// a gap, the rest as a Zero extent, so that both styles are met.
func (d *Disk) Extents(ctx context.Context, off, length int64) iter.Seq2[recovery.Extent, error] {
	return func(yield func(recovery.Extent, error) bool) {
		end := min(off+length, d.Size())
		for at := off &^ (grain - 1); at < end; at += grain {
			if err := ctx.Err(); err != nil {
				yield(recovery.Extent{}, err)
				return
			}
			stop := min(at+grain, d.Size())
			zero := allZero(d.Data[at:stop])
			if zero && at/grain%2 == 0 {
				continue
			}
			if !yield(recovery.Extent{Off: at, Len: stop - at, Zero: zero}, nil) {
				return
			}
		}
	}
}

// Changed compares with the disk in Others that is at that position.
func (d *Disk) Changed(_ context.Context, other block.Position) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		for _, o := range d.Others {
			if o.Position == other {
				d.differences(o, yield)
				return
			}
		}
		yield(block.Extent{}, recovery.ErrChangesUnknown)
	}
}

func (d *Disk) differences(o *Disk, yield func(block.Extent, error) bool) {
	end := min(d.Size(), o.Size())
	for at := int64(0); at < end; at += grain {
		stop := min(at+grain, end)
		if !bytes.Equal(d.Data[at:stop], o.Data[at:stop]) {
			if !yield(block.Extent{Off: at, Len: stop - at}, nil) {
				return
			}
		}
	}
}

func allZero(p []byte) bool {
	return len(bytes.TrimLeft(p, "\x00")) == 0
}
