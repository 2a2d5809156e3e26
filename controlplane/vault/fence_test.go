package vault

import (
	"context"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// stuck is a store at which puts of base objects hang until they are let go.
type stuck struct {
	objstore.Store
	hangs, release chan struct{}
}

func (s stuck) Put(ctx context.Context, key string, data []byte) error {
	if strings.Contains(key, "/base/") {
		close(s.hangs)
		<-s.release
	}
	return s.Store.Put(ctx, key, data)
}

// TestABaseObjectThatLandsLate: a writer that was superseded between looking at its lease
// and putting must not change what lies below the next epoch.
func TestABaseObjectThatLandsLate(t *testing.T) {
	h := newHistory(1, 64*sector)
	store := mem.New()
	_, w := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	h.flush(t, w)
	slow := stuck{store, make(chan struct{}), make(chan struct{})}
	w = must(must(Open(t.Context(), slow, Options{Key: Key{1}})).OpenWriter(t.Context(), h.machine))
	h.baseFrame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(sector, 1)})
	late, done := h.base, make(chan error)
	go func() { done <- w.Commit(context.Background(), late) }()
	<-slow.hangs
	v, m := reopen(t, store, h)
	w = must(v.OpenWriter(t.Context(), h.machine))
	h.base, h.below[h.disks[0].ID] = nil, make([]byte, 64*sector)
	h.begin(frame.ReasonUncleanStop)
	h.finish()
	h.flush(t, w)
	close(slow.release)
	if err := <-done; err != nil {
		t.Fatal(err) // it does not know
	}
	h.check(t, m, h.order)
	_, m = reopen(t, store, h)
	h.check(t, m, h.order)
	if _, err := m.Thin(t.Context(), DefaultRetention); err != nil {
		t.Fatal(err)
	}
	h.check(t, m, h.order)
}

// TestAFenceOfAnEpochThatNeverBegan settles nothing: its writer was superseded.
func TestAFenceOfAnEpochThatNeverBegan(t *testing.T) {
	h := newHistory(1, 64*sector)
	store := mem.New()
	_, w := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	h.flush(t, w)
	c, _ := w.m.current()
	if _, err := w.m.fence(t.Context(), c, []fence{{Epoch: 1, Over: block.Position{Epoch: 2, Seq: 2}}}); err != nil {
		t.Fatal(err)
	}
	h.baseFrame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(sector, 1)})
	h.finish()
	h.flush(t, w)
	_, m := reopen(t, store, h)
	h.check(t, m, h.order)
}
