package vault

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// hopeless is a vault with an epoch that was declared complete with three base frames,
// went on for an hour, and ended when one had come.
func hopeless(t *testing.T) (*mem.Store, *history) {
	t.Helper()
	h := newHistory(1, 64*sector)
	store := mem.New()
	_, w := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	h.baseFrame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(sector, 1)})
	h.flush(t, w)
	h.mark(frame.Mark{Type: frame.MarkBaseComplete, BaseFrames: 3})
	for range 6 {
		h.step(10 * time.Minute)
		h.tick()
	}
	h.flush(t, w)
	h.begin(frame.ReasonRelayLostSpool)
	h.finish()
	h.flush(t, w)
	return store, h
}

// TestCheckOfAnEpochThatNeverGotItsBase: nothing that was stored is lost.
func TestCheckOfAnEpochThatNeverGotItsBase(t *testing.T) {
	store, h := hopeless(t)
	v, _ := reopenVault(t, store, h)
	report := check(t, v)
	if len(report.Defects) != 1 || report.Severity() != Notice || !strings.Contains(report.Defects[0].What, "epoch 1 ended before its base was whole: 1 of 3 base frames had come") {
		t.Fatalf("%+v", report.Defects)
	}
	// A base object that a superseded relay stores late changes nothing.
	late := baseName(h.machine, 1, 2)
	if err := store.Put(t.Context(), late, []byte("late")); err != nil {
		t.Fatal(err)
	}
	report = check(t, v)
	told := slices.ContainsFunc(report.Defects, func(d Defect) bool { return d.Object == late && strings.Contains(d.What, "superseded") })
	if report.Severity() != Notice || !told {
		t.Fatalf("%+v", report.Defects)
	}
	// What had come when the epoch ended is needed by all that follows.
	if err := store.Delete(t.Context(), baseName(h.machine, 1, 1)); err != nil {
		t.Fatal(err)
	}
	v, _ = reopenVault(t, store, h)
	report = check(t, v)
	if i := slices.IndexFunc(report.Defects, func(d Defect) bool { return d.Severity == Damage }); i < 0 || !strings.Contains(report.Defects[i].What, "base frames 1..1 are missing") ||
		!strings.Contains(report.Defects[i].Affected, "every recovery point of epoch 1 and later") {
		t.Fatalf("%+v", report.Defects)
	}
}

// TestNoPointAboveAHoleInABase: where a part of an earlier base that counts is not there or
// cannot be told, no point behind it is read as if there were nothing.
func TestNoPointAboveAHoleInABase(t *testing.T) {
	store, h := hopeless(t)
	for _, spoil := range []func(*mem.Store){
		func(s *mem.Store) { _ = s.Delete(t.Context(), baseName(h.machine, 1, 1)) },
		func(s *mem.Store) { s.Alter(baseName(h.machine, 1, 1), func(b []byte) []byte { b[70] ^= 1; return b }) },
	} {
		bad := store.Clone()
		spoil(bad)
		_, m := reopen(t, bad, h)
		for _, p := range positions(t, m) {
			view, err := m.View(t.Context(), p)
			if err != nil {
				continue
			}
			got := make([]byte, sector)
			if _, err := view.ReadAt(t.Context(), h.disks[0].ID, got, 0); err == nil && string(got) != string(h.want[p][h.disks[0].ID][:sector]) {
				t.Errorf("point %v is read without its base", p)
			}
			view.Close()
		}
	}
}
