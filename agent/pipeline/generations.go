package pipeline

import (
	"context"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// rotateEvery bounds how often the dirty maps change generation: a swap costs an RCU
// grace period, and what one rotation saves is a few seconds of churn in a resync.
const rotateEvery = 2 * time.Second

// generations decides when the kernel may forget dirty blocks (invariant 3: ranges are
// kept until their data is committed to the vault).
//
// The kernel keeps two generations of each disk's dirty map: the current one, which
// the hook sets, and the retained one. Together they name every block whose data is
// not known to be in the vault. The retained generation is forgotten when the log is
// committed past the point where it was swapped out; then the next swap may come.
// It belongs to the consumer goroutine; only the swap itself runs beside it.
type generations struct {
	maps DirtyMaps

	retained bool
	swapping bool
	ringPos  uint64    // every retained bit's record lies before it
	until    block.Seq // committed up to here, the retained bits are forgotten; 0 while unknown
	swapped  time.Time
}

// DirtyMaps are the kernel's generations of dirty bits, see capture.Source.
type DirtyMaps interface {
	SwapDirty(ctx context.Context) (ringPos uint64, err error)
	ForgetDirty() error
}

// hold keeps the retained generation, which an epoch's doubt lies in, until release
// names the position of its base-complete mark.
func (g *generations) hold(now time.Time) { g.retain(^uint64(0), now) }

// retain keeps the retained generation until the records before ringPos are committed.
func (g *generations) retain(ringPos uint64, now time.Time) {
	g.retained, g.until, g.ringPos, g.swapped = true, 0, ringPos, now
}

// release lets the retained generation go once the log is committed up to seq.
func (g *generations) release(seq block.Seq) { g.until = seq }

// stored notes that everything up to ringPos is in the log up to seq.
func (g *generations) stored(ringPos uint64, seq block.Seq) {
	if g.retained && g.until == 0 && ringPos >= g.ringPos {
		g.until = seq
	}
}

// forgettable reports whether the vault, which has the log up to seq, has everything
// that the retained generation stands for.
func (g *generations) forgettable(seq block.Seq) bool {
	return g.retained && g.until != 0 && seq >= g.until
}

// forget drops the retained generation.
func (g *generations) forget() error {
	g.retained = false
	return g.maps.ForgetDirty()
}

// rotate starts a swap in its own goroutine if one is due; finish runs in the consumer
// goroutine again (post delivers it there).
func (g *generations) rotate(ctx context.Context, now time.Time, post func(func() error)) {
	if g.retained || g.swapping || now.Sub(g.swapped) < rotateEvery && !now.Before(g.swapped) {
		return
	}
	g.swapping = true
	go func() {
		pos, err := g.maps.SwapDirty(ctx)
		post(func() error {
			g.swapping = false
			if err != nil {
				return err
			}
			g.retain(pos, now)
			return nil
		})
	}()
}
