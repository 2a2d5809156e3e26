package resync

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/pkg/block"
)

// TestPlanBlockByBlock holds coverage and chunks against their definition: a block is
// wanted if some of it is in doubt and not all of it is free; it is read in order, once,
// within one cell of the grid, and what is read beside it is in doubt.
func TestPlanBlockByBlock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		size := int64(rapid.IntRange(1, 9000).Draw(t, "sectors")) * 512
		target := Target{Size: size, Doubt: drawSet(rng, size, 8)}
		if rng.IntN(3) == 0 {
			target.Doubt = nil
		}
		free := drawSet(rng, size, 12)
		want, may := coverage(target, free)
		for b := range blocks(block.Extent{Len: size}) {
			doubt := target.Doubt == nil || target.Doubt.Overlaps(b)
			if may.Covers(b) != doubt || may.Overlaps(b) != doubt {
				t.Fatalf("block %v: in doubt %v", b, doubt)
			}
			if w := doubt && !free.Covers(b); want.Covers(b) != w || want.Overlaps(b) != w {
				t.Fatalf("block %v: wanted %v of doubt %v, free %v", b, w, target.Doubt, free.Extents())
			}
		}
		planned, end := block.NewSet(), int64(0)
		for c := range chunks(want, may) {
			if c.span.Off < end || c.span.Len > chunkSize || c.span.Off/chunkSize != (c.span.End()-1)/chunkSize || !may.Covers(c.span) {
				t.Fatalf("chunk %v behind %d", c.span, end)
			}
			for _, e := range c.want {
				if !c.span.Contains(e) {
					t.Fatalf("chunk %v does not hold %v", c.span, e)
				}
				planned.Add(e)
			}
			end = c.span.End()
		}
		if planned.Bytes() != want.Bytes() || outside(planned, size).Bytes() != outside(want, size).Bytes() {
			t.Fatalf("planned %v of %v", planned.Extents(), want.Extents())
		}
	})
}
