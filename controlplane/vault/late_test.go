package vault

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/controlplane/objstore/storetest"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// meddled is a store at which others get something done between two steps of whoever
// uses it.
type meddled struct {
	objstore.Store
	before, after func(key string) // of each put; nil: nothing happens
	twice         bool             // manifests are put twice
	holds         string           // what is held back
	held          map[string][]byte
}

func (s *meddled) Put(ctx context.Context, key string, data []byte) error {
	if s.before != nil {
		s.before(key)
	}
	if s.holds != "" && strings.Contains(key, s.holds) {
		s.held[key] = slices.Clone(data)
		return errCrash
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

// hold keeps back what is put under names with this in them, and has the writer believe
// that its put failed.
func (s *meddled) hold(part string) { s.holds, s.held = part, map[string][]byte{} }

// land stores what was held back.
func (s *meddled) land(t *testing.T) {
	t.Helper()
	for key, data := range s.held {
		if err := s.Store.Put(t.Context(), key, data); err != nil {
			t.Fatal(err)
		}
	}
}

// lateBase is a machine with one epoch without a base, and a store in which a superseded
// writer's base frame of it can land.
func lateBase(t *testing.T) (*mem.Store, *history, *meddled) {
	t.Helper()
	h := newHistory(1, 64*sector)
	store := mem.New()
	_, w := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	h.flush(t, w)
	slow := &meddled{Store: store}
	slow.hold("/base/")
	v, _ := reopen(t, slow, h)
	w = must(v.OpenWriter(t.Context(), h.machine))
	h.baseFrame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(sector, 1)})
	wantErr(t, w.Commit(t.Context(), h.base), errCrash)
	h.base, h.below[h.disks[0].ID] = nil, make([]byte, 64*sector)
	return store, h, slow
}

// TestTwoWritersBeginOneEpoch, one of them late, and between their fences a base frame
// lands. What the one whose beginning is stored has said of it is the truth, for both.
func TestTwoWritersBeginOneEpoch(t *testing.T) {
	store, h, base := lateBase(t)
	slow := &meddled{Store: store}
	v1, _ := reopen(t, slow, h)
	w1 := must(v1.OpenWriter(t.Context(), h.machine))
	slow.hold("/log/")
	h.begin(frame.ReasonUncleanStop)
	h.finish()
	wantErr(t, w1.Commit(t.Context(), h.log), errCrash)
	base.land(t)
	v2, m2 := reopen(t, store, h)
	w2 := must(v2.OpenWriter(t.Context(), h.machine))
	slow.land(t)
	_, before := reopen(t, store, h)
	h.check(t, before, h.order)
	h.flush(t, w2)
	_, after := reopen(t, store, h)
	for _, m := range []*Machine{m2, before, after} {
		h.check(t, m, h.order)
	}
	if s := w2.State(); s.Base[1] != 0 || s.Last != h.order[0] {
		t.Fatalf("state %+v", s)
	}
}

// TestAFencePutDownWhileAHistoryIsRead: the manifest was read before, the log after it.
func TestAFencePutDownWhileAHistoryIsRead(t *testing.T) {
	for _, opened := range []bool{false, true} {
		store, h, base := lateBase(t)
		v, _ := reopen(t, store, h)
		w := must(v.OpenWriter(t.Context(), h.machine))
		reads := storetest.NewFaulty(store)
		_, m := reopen(t, reads, h)
		if opened {
			must(m.Status(t.Context()))
		}
		begin := once(func(op string) bool { return op == "get" || op == "head" && opened }, func() {
			h.begin(frame.ReasonUncleanStop)
			h.finish()
			h.flush(t, w)
			base.land(t)
		})
		reads.SetRule(func(c storetest.Call) storetest.Fault {
			if strings.Contains(c.Key, "/log/") {
				begin(c.Op)
			}
			return storetest.Fault{}
		})
		view := must(m.View(t.Context(), block.Position{Epoch: 2, Seq: 3}))
		got := make([]byte, sector)
		if _, err := view.ReadAt(t.Context(), h.disks[0].ID, got, 0); err != nil || !block.IsZero(got) {
			t.Errorf("opened %v: a base frame from behind the fence, %v", opened, err)
		}
		view.Close()
		h.check(t, m, h.order)
	}
}

// TestAThinningWhileAHistoryIsRead takes objects away between the look at the manifest and
// the look at them. A writer that took them for never stored would say that the vault
// holds less than it does, and be given that once more.
func TestAThinningWhileAHistoryIsRead(t *testing.T) {
	for name, at := range map[string]struct {
		opened bool // the history was read before and is caught up with
		call   string
	}{
		"before the log":      {false, "list /log/"},
		"before the base":     {false, "list /base/"},
		"before what is new":  {true, "get /log/"},
		"after what is known": {true, "head /manifest/"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory(1, 64*sector)
			store := mem.New()
			_, w := setup(t, store, h)
			h.begin(frame.ReasonInitial)
			h.baseFrame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(8*sector, 1)})
			h.finish()
			grow := func() {
				for i := range 40 {
					h.step(time.Hour)
					h.frame(frame.CompressNever, write{0, frame.OpWrite, int64(i%8) * sector, pattern(sector, byte(9+i))})
					h.flush(t, w)
				}
			}
			grow()
			reads := storetest.NewFaulty(store)
			v, m := reopen(t, reads, h)
			if at.opened {
				must(m.Status(t.Context()))
				grow()
			}
			_, thinner := reopen(t, store, h)
			thin := once(func(call string) bool { return call == at.call }, func() {
				if report := must(thinner.Thin(t.Context(), DefaultRetention)); report.Deleted == 0 {
					t.Error("nothing was taken away")
				}
			})
			reads.SetRule(func(c storetest.Call) storetest.Fault {
				for _, part := range []string{"/log/", "/base/", "/manifest/"} {
					if strings.Contains(c.Key, part) {
						thin(c.Op + " " + part)
					}
				}
				return storetest.Fault{}
			})
			got := must(reopenWriter(v, h)).State()
			fresh, _ := reopen(t, store, h)
			if want := must(reopenWriter(fresh, h)).State(); !got.equal(want) || want.Base[1] != 1 {
				t.Errorf("the vault is said to hold %+v, it holds %+v", got, want)
			}
		})
	}
}

// TestNoBaseBehindAnAttemptToBegin: how much of a base counts is settled by a writer once.
func TestNoBaseBehindAnAttemptToBegin(t *testing.T) {
	_, h, slow := lateBase(t)
	v, _ := reopen(t, slow, h)
	w := must(v.OpenWriter(t.Context(), h.machine))
	base := must(h.builder.Append(nil, 1, h.now, frame.CompressNever))
	slow.hold("/log/")
	h.begin(frame.ReasonUncleanStop)
	wantErr(t, w.Commit(t.Context(), h.log), errCrash)
	wantErr(t, w.Commit(t.Context(), [][]byte{base}), ErrContinuity, "open the writer again")
	w = must(v.OpenWriter(t.Context(), h.machine))
	wantErr(t, w.Commit(t.Context(), [][]byte{base}), nil)
}

// TestHashesBesideASupersededWriter: what a resync compares with must be what the vault
// holds, not what a writer of this process, that does not know yet, had made of it.
func TestHashesBesideASupersededWriter(t *testing.T) {
	h := newHistory(1, 64*sector)
	store := mem.New()
	v, w := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	h.finish()
	h.flush(t, w)
	elsewhere, _ := reopen(t, store, h)
	w = must(elsewhere.OpenWriter(t.Context(), h.machine))
	h.frame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(sector, 1)})
	h.flush(t, w)
	h.begin(frame.ReasonUncleanStop)
	h.flush(t, w)
	m := must(v.Machine(t.Context(), h.machine))
	d := h.disks[0]
	got, err := m.RangeHashes(t.Context(), block.Position{}, d.ID, 0, d.Size, block.FineGranule)
	if err != nil || !slices.Equal(got, block.AppendHashes(nil, h.merge(h.below[d.ID], d.ID), block.FineGranule)) {
		t.Fatalf("the hashes are not those of what the vault holds: %v", err)
	}
}
