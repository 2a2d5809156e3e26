package vault

import (
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// TestLotsNeedOnlyWhatTheyShow: a point that shows the beginning and the end of a frame
// whose middle was overwritten is read lot by lot though that middle is damaged, as it is
// in the order of the disk.
func TestLotsNeedOnlyWhatTheyShow(t *testing.T) {
	h := newHistory(1, 8*granule)
	store := mem.New()
	_, w := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	h.finish()
	h.frame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(8*granule, 1)})
	h.flush(t, w)
	for info, err := range store.List(t.Context(), logPrefix(h.machine)) {
		if err != nil {
			t.Fatal(err)
		}
		if info.Size > 8*granule {
			store.Alter(info.Key, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		}
	}
	h.step(time.Second)
	h.frame(frame.CompressNever, write{0, frame.OpWrite, 2 * granule, pattern(4*granule, 2)})
	h.flush(t, w)
	_, m := reopen(t, store, h)
	at := h.order[len(h.order)-1]
	view := must(m.View(t.Context(), at))
	defer view.Close()
	d := h.disks[0]
	checkLots(t, view, d, h.want[at][d.ID], 0)
}
