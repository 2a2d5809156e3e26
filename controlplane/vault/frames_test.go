package vault

import (
	"bytes"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// TestFramesComeBackAsTheyCame: also from the middle of an object, and marks, ticks and
// frames of another epoch; merged ones are refused.
func TestFramesComeBackAsTheyCame(t *testing.T) {
	h := newHistory(1, 64*sector)
	v, w := setup(t, mem.New(), h)
	v.opts.Now = func() time.Time { return h.now }
	var came [][]byte
	for range 2 {
		h.begin(frame.ReasonInitial)
		h.baseFrame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(sector, 1)})
		h.finish()
		for _, c := range []frame.Compression{frame.CompressNever, frame.CompressAlways} {
			h.step(time.Hour)
			h.frame(c, write{0, frame.OpWrite, 0, pattern(4*sector, 2)}, write{0, frame.OpDiscard, 8 * sector, make([]byte, sector)})
			h.tick()
			came = append(came, h.log...)
			h.flush(t, w)
		}
	}
	m := must(v.Machine(t.Context(), h.machine))
	last := w.State().Last.Seq
	for after := block.Seq(0); after <= last; after++ {
		for upto := after; upto <= last; upto++ {
			wantFrames(t, m, came, after, upto)
		}
	}
	for _, err := range m.Frames(t.Context(), 0, last+1) {
		wantErr(t, err, err, "are stored as they came")
	}
	must(m.Thin(t.Context(), Retention{All: time.Hour, Hourly: time.Hour, Daily: time.Hour}))
	for f, err := range m.Frames(t.Context(), 0, last) {
		if err == nil {
			t.Fatalf("frame %v is said to be there, but was merged", f.Position())
		}
	}
	wantFrames(t, m, came, last-1, last)
}

func wantFrames(t *testing.T, m *Machine, came [][]byte, after, upto block.Seq) {
	t.Helper()
	var got [][]byte
	for f, err := range m.Frames(t.Context(), after, upto) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, f.Bytes())
	}
	var want [][]byte
	for _, raw := range came {
		if h := must(frame.ParseHeader(raw)); h.First > after && h.Last <= upto {
			want = append(want, raw)
		}
	}
	if !bytes.Equal(bytes.Join(got, nil), bytes.Join(want, nil)) {
		t.Fatalf("frames %d..%d: got %d, want %d", after+1, upto, len(got), len(want))
	}
}
