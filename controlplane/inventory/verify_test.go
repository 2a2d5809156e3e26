package inventory

import (
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

func TestVerifyIsWantedOnceOrAlways(t *testing.T) {
	inv, _ := open(t)
	id := enrol(t, inv, "web1")
	record(t, inv, id, report("x", disk("a")))
	_, err := inv.Verify(t.Context(), id)
	want(t, err, problem.DiskUnprotected, "web1")
	_, err = inv.VerifyAlways(t.Context(), id, time.Hour, 0)
	want(t, err, problem.DiskUnprotected, "web1")
	if _, err := inv.Protect(t.Context(), id, []string{"a"}, ""); err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 2; i++ {
		if n, err := inv.Verify(t.Context(), id); err != nil || n != i {
			t.Fatal(n, err)
		}
	}
	_, err = inv.VerifyAlways(t.Context(), id, time.Millisecond, 0)
	want(t, err, problem.Invalid)
	_, err = inv.VerifyAlways(t.Context(), id, time.Hour, -1)
	want(t, err, problem.Invalid)
	if _, err := inv.VerifyAlways(t.Context(), id, time.Hour, 1<<20); err != nil {
		t.Fatal(err)
	}
	before, err := inv.Desired(t.Context(), id)
	if err != nil || before.Verify != (desired.Verify{Once: 2, Every: 3600, Rate: 1 << 20}) {
		t.Fatalf("%+v, %v", before.Verify, err)
	}
	if _, err := inv.VerifyAlways(t.Context(), id, 0, 0); err != nil {
		t.Fatal(err)
	}
	s, err := inv.Desired(t.Context(), id)
	if err != nil || s.Verify != (desired.Verify{Once: 2}) || s.Generation <= before.Generation {
		t.Fatalf("%+v, %v", s, err)
	}
}

// TestRebuiltInventoryAsksForANewProof: an agent that has answered higher numbers must
// not take the next request for an old one.
func TestRebuiltInventoryAsksForANewProof(t *testing.T) {
	inv, _ := open(t)
	id := block.NewMachineID()
	if _, err := inv.Adopt(t.Context(), id, "web1", []desired.Disk{disk("a")}, []block.DiskID{disk("a").ID}); err != nil {
		t.Fatal(err)
	}
	r := report("x", disk("a"))
	r.Protection = &desired.Protection{Phase: desired.PhaseSteady, Verify: &desired.VerifyState{Once: 9}}
	record(t, inv, id, r)
	if n, err := inv.Verify(t.Context(), id); err != nil || n != 10 {
		t.Fatal(n, err)
	}
}
