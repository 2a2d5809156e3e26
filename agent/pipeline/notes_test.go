package pipeline

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/pkg/block"
)

// TestNotesAgainstASet: what is noted covers what was written within, in whole blocks.
func TestNotesAgainstASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		extent := func(what string) block.Extent {
			return block.Extent{Off: rapid.Int64Range(0, 3000).Draw(t, what) * 512, Len: rapid.Int64Range(1, 2000).Draw(t, what+" sectors") * 512}
		}
		within := extent("within")
		n, want := newNotes(within), block.NewSet()
		for range rapid.IntRange(0, 20).Draw(t, "writes") {
			e := extent("write")
			n.add(e)
			want.Add(e.Align(block.FineGranule).Intersect(within.Align(block.FineGranule)))
		}
		got := n.set()
		if got.Bytes() != want.Bytes() {
			t.Fatalf("%v, want %v", got.Extents(), want.Extents())
		}
		for e := range want.All() {
			if !got.Covers(e) {
				t.Fatalf("%v lacks %v", got.Extents(), e)
			}
		}
	})
}
