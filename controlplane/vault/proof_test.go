package vault

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// TestAProofReadsTheStore: what a resync takes from caches and stored hashes, a proof
// reads; a flipped bit under merged data fails it where a resync would see nothing.
func TestAProofReadsTheStore(t *testing.T) {
	h := newHistory(1, 8*granule)
	store := mem.New()
	v, w := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	h.baseFrame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(4*granule, 1)})
	h.finish()
	h.step(3 * time.Hour)
	h.frame(frame.CompressNever, write{0, frame.OpWrite, granule, pattern(sector, 99)})
	h.flush(t, w)
	m := must(v.Machine(t.Context(), h.machine))
	if _, err := m.Thin(t.Context(), DefaultRetention); err != nil {
		t.Fatal(err)
	}
	at := h.order[len(h.order)-1]
	d := h.disks[0]
	want := block.AppendHashes(nil, h.want[at][d.ID], granule)
	for i := 4; i < 8; i++ {
		want[i] = block.NoData
	}
	got, err := m.ProofHashes(t.Context(), at, d.ID, 0, d.Size, granule)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%v, err %v, want %v", got, err, want)
	}
	if _, err := m.ProofHashes(t.Context(), block.Position{Epoch: at.Epoch, Seq: at.Seq + 1}, d.ID, 0, granule, granule); !errors.Is(err, ErrNoPoint) {
		t.Fatalf("hashes of a position that is not there yet: %v", err)
	}
	for info, err := range store.List(t.Context(), runPrefix(h.machine)) {
		if err != nil {
			t.Fatal(err)
		}
		store.Alter(info.Key, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
	}
	if _, err := m.RangeHashes(t.Context(), block.Position{}, d.ID, 3*granule, granule, granule); err != nil {
		t.Fatalf("a resync reads what it has no need to: %v", err)
	}
	m.proving = nil // as after a while: other positions begin with no payload either
	if _, err := m.ProofHashes(t.Context(), at, d.ID, 3*granule, granule, granule); !errors.Is(err, ErrDamaged) {
		t.Fatalf("a proof of damaged data: %v", err)
	}
}
