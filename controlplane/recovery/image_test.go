package recovery_test

import (
	"context"
	"errors"
	"iter"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/controlplane/recovery"
)

// listed is an image of which only the extents matter.
type listed struct {
	size    int64
	extents []recovery.Extent
}

func (l listed) Size() int64                       { return l.size }
func (l listed) ReadAt([]byte, int64) (int, error) { return 0, errors.New("not here") }
func (l listed) Extents(context.Context, int64, int64) iter.Seq2[recovery.Extent, error] {
	return func(yield func(recovery.Extent, error) bool) {
		for _, e := range l.extents {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func TestMapCoversTheRangeExactlyAndAlternates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 64
		img := listed{size: size}
		data := make([]bool, size)
		for at := int64(0); at < size; {
			e := recovery.Extent{Off: at, Len: rapid.Int64Range(1, 9).Draw(t, "len"), Zero: rapid.Bool().Draw(t, "zero")}
			e.Len = min(e.Len, size-at)
			if rapid.Bool().Draw(t, "listed") {
				img.extents = append(img.extents, e)
				for i := e.Off; i < e.End(); i++ {
					data[i] = !e.Zero
				}
			}
			at = e.End()
		}
		off := rapid.Int64Range(0, size).Draw(t, "off")
		length := rapid.Int64Range(0, size-off).Draw(t, "length")
		at, last := off, recovery.Extent{}
		for e, err := range recovery.Map(t.Context(), img, off, length) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Off != at || e.Len <= 0 || (last.Len > 0 && last.Zero == e.Zero) {
				t.Fatalf("%+v after %+v in [%d+%d) of %+v", e, last, off, length, img.extents)
			}
			for i := e.Off; i < e.End(); i++ {
				if data[i] == e.Zero {
					t.Fatalf("byte %d: %+v of %+v", i, e, img.extents)
				}
			}
			at, last = e.End(), e
		}
		if at != off+length {
			t.Fatalf("ended at %d, want %d", at, off+length)
		}
	})
}

func TestMapRefusesExtentsThatGoBack(t *testing.T) {
	img := listed{size: 100, extents: []recovery.Extent{{Off: 10, Len: 20}, {Off: 15, Len: 5}}}
	var got error
	for _, err := range recovery.Map(t.Context(), img, 0, 100) {
		got = err
	}
	if got == nil {
		t.Fatal("overlapping extents were taken")
	}
}
