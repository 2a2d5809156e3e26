package inventory

import (
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// TestPointIsWantedUntilMade: also of an agent that lost its memory, which would else make
// a point of yesterday's name today.
func TestPointIsWantedUntilMade(t *testing.T) {
	inv, _ := open(t)
	id := enrol(t, inv, "web1")
	record(t, inv, id, report("x", disk("a")))
	_, err := inv.CreatePoint(t.Context(), id, "before", true)
	want(t, err, problem.DiskUnprotected, "web1")
	if _, err := inv.Protect(t.Context(), id, []string{"a"}, ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"latest", "latest-app", "1.5", "90s", "a b", "-x"} {
		_, err := inv.CreatePoint(t.Context(), id, name, true)
		want(t, err, problem.Invalid)
	}
	if n, err := inv.CreatePoint(t.Context(), id, "before", true); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	s, err := inv.Desired(t.Context(), id)
	if err != nil || s.Point != (desired.PointWish{Once: 1, Name: "before", App: true}) {
		t.Fatalf("%+v, %v", s.Point, err)
	}
	r := report("x", disk("a"))
	r.Protection = &desired.Protection{Phase: desired.PhaseSteady, Point: &desired.PointState{Once: 1, Kind: desired.PointApp, Time: time.Now()}}
	record(t, inv, id, r)
	r.Protection.Point = nil // a reboot
	record(t, inv, id, r)
	if s, err := inv.Desired(t.Context(), id); err != nil || s.Point != (desired.PointWish{}) {
		t.Errorf("made, it is wanted still: %+v, %v", s.Point, err)
	}
	if n, err := inv.CreatePoint(t.Context(), id, "", false); err != nil || n != 2 {
		t.Fatal(n, err)
	}
	if s, err := inv.Desired(t.Context(), id); err != nil || s.Point != (desired.PointWish{Once: 2}) {
		t.Errorf("%+v, %v", s.Point, err)
	}
}

// TestPolicyOfAppPoints: it reaches the agent, and what makes no sense is refused.
func TestPolicyOfAppPoints(t *testing.T) {
	inv, _ := open(t)
	id := enrol(t, inv, "web1")
	p := NewPolicy(DefaultPolicy)
	p.Consistency = desired.Consistency{AppSeconds: 3600, DeadlineSeconds: 30, NoScripts: true}
	if _, err := inv.SetPolicy(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	s, err := inv.Desired(t.Context(), id)
	if err != nil || s.Policy.Consistency != p.Consistency {
		t.Errorf("%+v, %v", s.Policy, err)
	}
	for _, c := range []desired.Consistency{{AppSeconds: 1}, {AppSeconds: -1}, {DeadlineSeconds: -1}, {DeadlineSeconds: 3600}} {
		p.Consistency = c
		_, err := inv.SetPolicy(t.Context(), p)
		want(t, err, problem.Invalid)
	}
}

// TestALastPointIsWantedForAWhileOnly: an agent that hears of it late, or after its machine
// was switched on again, must not switch it off.
func TestALastPointIsWantedForAWhileOnly(t *testing.T) {
	inv, clock := open(t)
	id := enrol(t, inv, "web1")
	record(t, inv, id, report("x", disk("a")))
	_, err := inv.CreateLastPoint(t.Context(), id, "failover-1", time.Minute)
	want(t, err, problem.DiskUnprotected, "web1")
	if _, err := inv.Protect(t.Context(), id, []string{"a"}, ""); err != nil {
		t.Fatal(err)
	}
	wanted := func(w desired.PointWish) {
		t.Helper()
		if s, err := inv.Desired(t.Context(), id); err != nil || s.Point != w {
			t.Errorf("wanted is %+v, %v; want %+v", s.Point, err, w)
		}
	}
	ask := func(name string, number uint64) {
		t.Helper()
		if n, err := inv.CreateLastPoint(t.Context(), id, name, time.Minute); err != nil || n != number {
			t.Fatal(n, err)
		}
	}
	ask("failover-1", 1)
	ask("failover-1", 1) // a control plane that died, and asks again
	wanted(desired.PointWish{Once: 1, Name: "failover-1", App: true, Off: true})
	clock.pass(time.Minute)
	wanted(desired.PointWish{})

	ask("failover-2", 2)
	wanted(desired.PointWish{Once: 2, Name: "failover-2", App: true, Off: true})
	if err := inv.WithdrawLastPoint(t.Context(), id, "failover-2"); err != nil {
		t.Fatal(err)
	}
	wanted(desired.PointWish{})

	ask("failover-3", 3)
	r := report("x", disk("a"))
	r.Protection = &desired.Protection{Phase: desired.PhaseSteady, Point: &desired.PointState{Once: 3, Off: true, Kind: desired.PointApp, Time: time.Now()}}
	record(t, inv, id, r)
	r.Protection.Point = nil // switched on again
	record(t, inv, id, r)
	wanted(desired.PointWish{})

	if n, err := inv.CreatePoint(t.Context(), id, "next", true); err != nil || n != 4 {
		t.Fatal(n, err)
	}
	wanted(desired.PointWish{Once: 4, Name: "next", App: true})
	if err := inv.WithdrawLastPoint(t.Context(), id, "failover-3"); err != nil {
		t.Fatal(err)
	}
	wanted(desired.PointWish{Once: 4, Name: "next", App: true})
}
