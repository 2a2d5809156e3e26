package pipeline

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// TestADisputedSizeWaits: a size that the copies find changed, and capture does not, must
// not begin epoch after epoch. When both agree again, all is well.
func TestADisputedSizeWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		before := w.p.Position().Epoch
		w.resize(-blockSize)
		w.p.Wish(t.Context(), desired.State{Disks: w.disks, Resync: w.resync()}, w.k.found())
		w.quiet(20 * time.Minute)
		if n := w.p.Position().Epoch - before; n < 5 || n > 15 {
			t.Errorf("%d epochs began in 20 minutes", n)
		}
		if !slices.ContainsFunc(w.events, func(e desired.Event) bool { return e.Type == "size-disputed" }) {
			t.Error("nobody was told")
		}
		w.resize(blockSize)
		w.quiet(maxDispute)
		w.settled()
		w.kill()
	})
}

// quiet passes time in which nothing is written.
func (w *world) quiet(d time.Duration) {
	for until := time.Now().Add(d); time.Now().Before(until); time.Sleep(time.Second) {
		w.plant.commit()
	}
}

// resize has the copies see another size of the first disk than capture does.
func (w *world) resize(by int64) {
	w.k.mu.Lock()
	defer w.k.mu.Unlock()
	w.k.disks[w.disks[0]].Disk.Size += by
}
