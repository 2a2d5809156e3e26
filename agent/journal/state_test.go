package journal

import (
	"errors"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/hrl"
)

// TestLongDirtyMapsAreRoundedOutwards saves more extents than the state has room for:
// everything in doubt stays in doubt.
func TestLongDirtyMapsAreRoundedOutwards(t *testing.T) {
	o := testOptions(t, 64<<10, 64<<10)
	o.boot = bootID{1}
	j, _ := mustOpen(t, o)
	dirty := map[block.DiskID][]block.Extent{disk: nil, {3}: {{Off: 4096, Len: 4096}}}
	for i := range int64(100_000) {
		dirty[disk] = append(dirty[disk], block.Extent{Off: i * 100_000 / 4096 * 4096, Len: 4096})
	}
	if err := j.SaveDurable(State{CleanStop: true, Dirty: dirty}); err != nil {
		t.Fatal(err)
	}
	j.Close()
	j, rec := mustOpen(t, reboot(t, o))
	defer j.Close()
	for id, extents := range dirty {
		set := block.NewSet(rec.State.Dirty[id]...)
		for _, e := range extents {
			if !set.Covers(e) {
				t.Fatalf("%v of disk %v is no longer in doubt", e, id)
			}
		}
	}
	if n := len(dirty[disk]); n != 100_000 {
		t.Errorf("the caller's map was changed: %d", n)
	}
}

func TestStateTooLong(t *testing.T) {
	j, _ := mustOpen(t, testOptions(t, 64<<10, 0))
	defer j.Close()
	if err := j.SaveState(State{Epoch: 4}); err != nil {
		t.Fatal(err)
	}
	if err := j.SaveState(State{Log: []byte(`"` + strings.Repeat("x", maxState) + `"`)}); !errors.Is(err, hrl.ErrTooLarge) {
		t.Errorf("save: %v", err)
	}
	if s := j.State(); s.Epoch != 4 {
		t.Errorf("the state before is gone: %+v", s)
	}
}
