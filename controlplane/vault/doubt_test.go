package vault

import (
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// TestDoubtsLastAsLongAsTheirPoints: a doubt is kept once however often it is told,
// concerns the points behind the last proof, survives its own damage, and goes with the
// last point that it concerns.
func TestDoubtsLastAsLongAsTheirPoints(t *testing.T) {
	h := newHistory(1, 8*granule)
	store := mem.New()
	v, w := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	h.finish()
	proved := h.order[len(h.order)-1]
	h.frame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(sector, 1)})
	wrong := h.order[len(h.order)-1]
	h.flush(t, w)
	m := must(v.Machine(t.Context(), h.machine))
	d := Doubt{Found: time.Unix(1, 0).UTC(), At: wrong, From: proved, Cause: "different",
		Extents: []block.DiskExtent{{Disk: h.disks[0].ID, Extent: block.Extent{Len: 4096}}}, Bytes: 4096}
	for range 2 {
		if err := m.AddDoubt(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	for p, want := range map[block.Position]int{proved: 0, wrong: 1, {Epoch: wrong.Epoch + 1, Seq: wrong.Seq + 5}: 0} {
		if got := must(m.InDoubt(t.Context(), p)); len(got) != want {
			t.Errorf("%d doubts about %v: %+v", len(got), p, got)
		}
	}
	if told := must(v.Rebuild(t.Context())); len(told[0].Doubts) != 1 || told[0].Doubts[0].Bytes != 4096 {
		t.Errorf("the vault alone tells of %+v", told[0].Doubts)
	}
	store.Alter(doubtName(h.machine, d), func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
	if got := must(m.InDoubt(t.Context(), proved)); len(got) != 1 {
		t.Errorf("a damaged doubt doubts no more: %+v", got)
	}
	if r := must(v.Check(t.Context(), nil)); r.Severity() != Damage {
		t.Errorf("a check does not see it: %+v", r)
	}
	// A repair, and a long time in which only newer points stay.
	h.begin(frame.ReasonScrubDifference)
	h.finish()
	for range 3 {
		h.step(40 * 24 * time.Hour)
		h.frame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(sector, 2)})
	}
	h.flush(t, w)
	if _, err := m.Thin(t.Context(), Retention{All: time.Hour, Hourly: time.Hour, Daily: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if got := must(m.Doubts(t.Context())); len(got) != 0 {
		t.Errorf("doubts about points that are gone: %+v", got)
	}
}
