package vault

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// meddled is a store at which others get something done between two steps of whoever
// uses it.
type meddled struct {
	objstore.Store
	before, after func(key string) // of each put; nil: nothing happens
	twice         bool             // manifests are put twice
}

func (s *meddled) Put(ctx context.Context, key string, data []byte) error {
	if s.before != nil {
		s.before(key)
	}
	err := s.Store.Put(ctx, key, data)
	if s.twice && strings.Contains(key, "/manifest/") {
		err = s.Store.Put(ctx, key, data)
	}
	if s.after != nil {
		s.after(key)
	}
	return err
}

// once is a hook that acts on the first key that is wanted.
func once(wanted func(string) bool, act func()) func(string) {
	done := false
	return func(key string) {
		if !done && wanted(key) {
			done = true
			act()
		}
	}
}

func manifestOf(h *history) func(string) bool {
	return func(key string) bool { return strings.HasPrefix(key, manifestPrefix(h.machine)) }
}

// TestAManifestUponAThinnings: between storing its manifest and looking for a later one, a
// thinning may be so slow that another process builds the next upon it. Then what the
// thinning has made is in use.
func TestAManifestUponAThinnings(t *testing.T) {
	h := newHistory(1, 64*sector)
	store := mem.New()
	_, w := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	h.baseFrame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(8*sector, 1)})
	h.finish()
	for i := range 4 {
		h.step(time.Hour)
		h.frame(frame.CompressNever, write{0, frame.OpWrite, int64(i) * sector, pattern(sector, byte(9+i))})
	}
	h.flush(t, w)
	h.begin(frame.ReasonRingOverflow) // its base does not come: the next epoch needs a fence
	h.flush(t, w)
	slow := &meddled{Store: store}
	slow.after = once(manifestOf(h), func() {
		h.begin(frame.ReasonUncleanStop)
		h.finish()
		h.flush(t, w)
	})
	_, m := reopen(t, slow, h)
	if _, err := m.Thin(t.Context(), DefaultRetention); err != nil {
		t.Fatal(err)
	}
	_, other := reopen(t, store, h)
	for _, m := range []*Machine{m, other} {
		points := positions(t, m)
		if len(points) < 3 {
			t.Fatalf("points %v", points)
		}
		h.check(t, m, points)
	}
}

// TestAManifestThatWasStoredAllTheSame: a client of a store that repeats a put whose answer
// was lost is told that the name is taken. By its own first attempt, then.
func TestAManifestThatWasStoredAllTheSame(t *testing.T) {
	store := mem.New()
	h, _ := hourly(t, store, 6)
	repeats := &meddled{Store: store}
	_, m := reopen(t, repeats, h)
	repeats.twice = true
	want := h.expected(t, m, DefaultRetention)
	if _, err := m.Thin(t.Context(), DefaultRetention); err != nil {
		t.Fatal(err)
	}
	_, other := reopen(t, store, h)
	h.check(t, m, want)
	h.check(t, other, want)
	noGarbage(t, store, other)
}
