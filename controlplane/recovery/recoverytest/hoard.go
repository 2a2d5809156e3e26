package recoverytest

import (
	"cmp"
	"context"
	"iter"
	"slices"

	"github.com/understudy-dr/understudy/controlplane/recovery"
)

// Hoard is a disk that would rather be read in another order: its grains are dealt out
// to lots, most of which lie all over it.
type Hoard struct{ *Disk }

var _ recovery.Hoard = Hoard{}

type lot struct {
	disk *Disk
	at   []int64 // offsets of grains, ascending
}

// Lots deals the grains that are not zero out: those of each sixteenth of the disk to
// five lots, and every third of all to lots of the whole disk.
func (h Hoard) Lots(_ context.Context, off int64) iter.Seq2[recovery.Lot, error] {
	return func(yield func(recovery.Lot, error) bool) {
		dealt := map[int64]*lot{}
		for at := off &^ (grain - 1); at < h.Size(); at += grain {
			n := at / grain
			k := 5*(16*at/h.Size()) + n%5
			if n%3 == 0 {
				k = -1 - n%7
			}
			if dealt[k] == nil {
				dealt[k] = &lot{disk: h.Disk}
			}
			if from := max(at, off); !allZero(h.Data[from:h.end(at)]) {
				dealt[k].at = append(dealt[k].at, from)
			}
		}
		var lots []*lot
		for _, l := range dealt {
			if len(l.at) > 0 {
				lots = append(lots, l)
			}
		}
		slices.SortFunc(lots, func(a, b *lot) int { return cmp.Compare(a.Off(), b.Off()) })
		for _, l := range lots {
			if !yield(l, nil) {
				return
			}
		}
	}
}

// end is where the grain that off lies in ends.
func (d *Disk) end(off int64) int64 { return min(off&^(grain-1)+grain, d.Size()) }

func (l *lot) Off() int64 { return l.at[0] }

func (l *lot) Len() (n int64) {
	for _, at := range l.at {
		n += l.disk.end(at) - at
	}
	return n
}

func (l *lot) Read(_ context.Context, put func(off int64, p []byte) error) error {
	for i, at := range l.at {
		p := make([]byte, l.disk.end(at)-at)
		if i > 0 { // one read a lot is what the disk's hook is told of
			copy(p, l.disk.Data[at:])
		} else if err := recovery.ReadFull(l.disk, p, at); err != nil {
			return err
		}
		if err := put(at, p); err != nil {
			return err
		}
	}
	return nil
}
