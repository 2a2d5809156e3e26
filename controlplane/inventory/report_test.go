package inventory

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

func TestProtectAndItsRefusals(t *testing.T) {
	inv, c := open(t)
	id := enrol(t, inv, "web1")
	_, err := inv.Protect(t.Context(), id, []string{"a"}, "")
	want(t, err, problem.DiskUnknown, "has not reported")

	record(t, inv, id, report("x", disk("a"), disk("b"), disk("c")))
	before, err := inv.Desired(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	_, err = inv.Protect(t.Context(), id, []string{"a", "nonsense"}, "")
	want(t, err, problem.DiskUnknown, "nonsense", "/dev/a", "/dev/b")
	_, err = inv.Protect(t.Context(), id, []string{"a"}, "no such policy")
	want(t, err, problem.NotFound, "no such policy")
	if s, err := inv.Desired(t.Context(), id); err != nil || len(s.Disks) != 0 || s.Generation != before.Generation {
		t.Fatal("a refused request left something behind", s, err)
	}

	if _, err := inv.Protect(t.Context(), id, []string{"/dev/a", disk("b").ID.String(), "a"}, ""); err != nil {
		t.Fatal(err)
	}
	s, err := inv.Desired(t.Context(), id)
	if err != nil || len(s.Disks) != 2 || s.Generation <= before.Generation {
		t.Fatal(s, err)
	}
	c.pass(time.Minute)
	_, err = inv.Protect(t.Context(), id, []string{"c", "a"}, "")
	want(t, err, problem.DiskProtected, "disk a", "web1", "18:00:00")

	record(t, inv, id, report("x", disk("b"))) // a and c are pulled
	_, err = inv.Protect(t.Context(), id, []string{"c"}, "")
	want(t, err, problem.DiskUnknown)
	disks, err := inv.Disks(t.Context(), id)
	if err != nil || len(disks) != 2 || disks[0].Present || disks[0].Protected.IsZero() {
		t.Fatal("a protected disk that is gone must stay in the list", disks, err)
	}
	if _, err := inv.Unprotect(t.Context(), id, []string{"a"}); err != nil {
		t.Fatal(err)
	}
	_, err = inv.Unprotect(t.Context(), id, []string{"a"})
	want(t, err, problem.DiskUnknown)
	if _, err := inv.Unprotect(t.Context(), id, nil); err != nil {
		t.Fatal(err)
	}
	_, err = inv.Unprotect(t.Context(), id, []string{"b"})
	want(t, err, problem.DiskUnprotected)
	_, err = inv.Unprotect(t.Context(), id, nil)
	want(t, err, problem.DiskUnprotected)
	_, err = inv.Resync(t.Context(), id)
	want(t, err, problem.DiskUnprotected)
}

func TestProtectOfADiskThatIsGone(t *testing.T) {
	inv, _ := open(t)
	id := block.NewMachineID()
	if _, err := inv.Adopt(t.Context(), id, "web1", []desired.Disk{disk("a")}, nil); err != nil {
		t.Fatal(err)
	}
	_, err := inv.Protect(t.Context(), id, []string{"a"}, "")
	want(t, err, problem.DiskGone, "disk a", "web1", "attach it")
}

func TestMovedDiskKeepsItsProtection(t *testing.T) {
	inv, _ := open(t)
	id := enrol(t, inv, "web1")
	record(t, inv, id, report("x", disk("a")))
	if _, err := inv.Protect(t.Context(), id, []string{"/dev/a"}, ""); err != nil {
		t.Fatal(err)
	}
	moved := disk("a")
	moved.Path = "/dev/z"
	record(t, inv, id, report("x", moved))
	disks, err := inv.Disks(t.Context(), id)
	if err != nil || len(disks) != 1 || disks[0].Path != "/dev/z" || disks[0].Protected.IsZero() {
		t.Fatal(disks, err)
	}
}

func TestResyncIsANumberThatGrows(t *testing.T) {
	inv, _ := open(t)
	id := enrol(t, inv, "web1")
	record(t, inv, id, report("x", disk("a")))
	if _, err := inv.Protect(t.Context(), id, []string{"a"}, ""); err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 2; i++ {
		if n, err := inv.Resync(t.Context(), id); err != nil || n != i {
			t.Fatal(n, err)
		}
	}
	if s, err := inv.Desired(t.Context(), id); err != nil || s.Resync != 2 {
		t.Fatal(s, err)
	}
}

func TestAwaitDesired(t *testing.T) {
	inv, _ := open(t)
	id := enrol(t, inv, "web1")
	record(t, inv, id, report("x", disk("a")))
	now, err := inv.Desired(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	type answer struct {
		state desired.State
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		s, err := inv.AwaitDesired(context.Background(), id, now.Generation, time.Minute)
		answers <- answer{s, err}
	}()
	if _, err := inv.Protect(t.Context(), id, []string{"a"}, ""); err != nil {
		t.Fatal(err)
	}
	if a := <-answers; a.err != nil || len(a.state.Disks) != 1 {
		t.Fatal(a)
	}
	if s, err := inv.AwaitDesired(t.Context(), id, now.Generation+1, time.Millisecond); err != nil || s.Generation != now.Generation+1 {
		t.Fatal(s, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := inv.AwaitDesired(ctx, id, now.Generation+1, time.Minute); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestPolicyChangeReachesItsMachinesOnly(t *testing.T) {
	inv, _ := open(t)
	a, b := enrol(t, inv, "web1"), enrol(t, inv, "web2")
	if _, err := inv.SetPolicy(t.Context(), NewPolicy("gold")); err != nil {
		t.Fatal(err)
	}
	if err := inv.SetMachinePolicy(t.Context(), a, "gold"); err != nil {
		t.Fatal(err)
	}
	before := map[block.MachineID]uint64{}
	for _, id := range []block.MachineID{a, b} {
		s, err := inv.Desired(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		before[id] = s.Generation
	}
	gold := NewPolicy("gold")
	gold.RPOTargetMS = 3000
	if _, err := inv.SetPolicy(t.Context(), gold); err != nil {
		t.Fatal(err)
	}
	s, err := inv.Desired(t.Context(), a)
	if err != nil || s.Generation != before[a]+1 || s.Policy.RPOTarget() != 3*time.Second {
		t.Fatal(s, err)
	}
	if s, err = inv.Desired(t.Context(), b); err != nil || s.Generation != before[b] {
		t.Fatal(s, err)
	}
}

func events(t *testing.T, inv *Inventory, typ string) []Event {
	t.Helper()
	found, err := inv.Events(t.Context(), EventFilter{Type: typ, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestRestartedAgentTakesOver(t *testing.T) {
	inv, c := open(t)
	id := enrol(t, inv, "web1")
	for i := range 3 {
		record(t, inv, id, report(fmt.Sprint("instance ", i)))
		c.pass(time.Second)
	}
	// The last word of the one before arrives late. It is refused and nobody is alarmed.
	_, err := inv.Record(t.Context(), id, report("instance 1"))
	want(t, err, problem.IdentityConflict)
	c.pass(5 * time.Second)
	record(t, inv, id, report("instance 2"))
	if e := events(t, inv, "identity-conflict"); len(e) != 0 {
		t.Fatal(e)
	}
}

func TestTwoAgentsWithOneIdentity(t *testing.T) {
	inv, c := open(t)
	id := enrol(t, inv, "web1")
	clone := report("clone")
	clone.Host.Hostname = "clone-of-web1"
	record(t, inv, id, report("original"))
	record(t, inv, id, clone)
	_, err := inv.Record(t.Context(), id, report("original")) // may be a straggler
	want(t, err, problem.IdentityConflict, "web1", "clone-of-web1", "token of its own")
	// Both go on for three minutes: the older one speaks for the machine.
	for range 36 {
		c.pass(5 * time.Second)
		record(t, inv, id, report("original"))
		_, err := inv.Record(t.Context(), id, clone)
		want(t, err, problem.IdentityConflict)
	}
	if m, err := inv.Machine(t.Context(), id); err != nil || m.Hostname != "web1" || m.Instance != "original" {
		t.Fatal(m, err)
	}
	if n := len(events(t, inv, "identity-conflict")); n < 3 || n > 5 {
		t.Errorf("%d events in three minutes, want one a minute or so", n)
	}
	// The original dies for good: the clone is all there is.
	c.pass(goneAfter + time.Second)
	record(t, inv, id, clone)
}

func TestClockSkewIsToldOnceAndItsEndToo(t *testing.T) {
	inv, c := open(t)
	id := enrol(t, inv, "web1")
	at := func(skew time.Duration) {
		r := report("x")
		r.Time = c.now().Add(skew)
		if _, err := inv.Record(t.Context(), id, r); err != nil {
			t.Fatal(err)
		}
		c.pass(5 * time.Second)
	}
	at(0)
	at(-time.Hour)
	at(-time.Hour)
	at(0)
	at(2 * time.Hour)
	e := events(t, inv, "clock")
	if len(e) != 3 {
		t.Fatalf("%d events: %v", len(e), e)
	}
	want(t, errors.New(e[0].Message), problem.Internal, "web1", "1h0m0s behind")
	want(t, errors.New(e[1].Message), problem.Internal, "agree again")
	want(t, errors.New(e[2].Message), problem.Internal, "2h0m0s ahead of")
}

func TestRecordKeepsEventsAndRefusesNonsense(t *testing.T) {
	inv, _ := open(t)
	id := enrol(t, inv, "web1")
	r := report("x", disk("a"))
	r.Events = []desired.Event{{Time: time.Now(), Disk: disk("a").ID, Type: "ring-overflow", Severity: desired.Warning, Message: "m", Remedy: "r"}}
	record(t, inv, id, r)
	if e := events(t, inv, "ring-overflow"); len(e) != 1 || e[0].Machine != id.String() || e[0].Disk != disk("a").ID.String() || e[0].Remedy != "r" {
		t.Fatal(e)
	}
	r.Version = 99
	_, err := inv.Record(t.Context(), id, r)
	want(t, err, problem.VersionUnknown, "99")
	_, err = inv.Record(t.Context(), block.NewMachineID(), report("x"))
	want(t, err, problem.MachineUnknown)
}

// TestRebuiltInventoryOvertakesTheAgents: an agent that has seen higher numbers must
// not take the next request for an old one.
func TestRebuiltInventoryOvertakesTheAgents(t *testing.T) {
	inv, _ := open(t)
	id := block.NewMachineID()
	if _, err := inv.Adopt(t.Context(), id, "web1", []desired.Disk{disk("a")}, []block.DiskID{disk("a").ID}); err != nil {
		t.Fatal(err)
	}
	s, err := inv.Desired(t.Context(), id)
	if err != nil || len(s.Disks) != 1 {
		t.Fatal("protection did not survive", s, err)
	}
	r := report("x", disk("a"))
	r.Generation, r.Protection = 41, &desired.Protection{Phase: desired.PhaseSteady, Epoch: 3, Resync: 7}
	if reply := record(t, inv, id, r); reply.Generation <= 41 {
		t.Error("generation", reply.Generation)
	}
	if n, err := inv.Resync(t.Context(), id); err != nil || n != 8 {
		t.Error("resync", n, err)
	}
}

// TestNoisyAgentIsRestrained: whoever took over a machine cannot fill the inventory.
func TestNoisyAgentIsRestrained(t *testing.T) {
	inv, c := open(t)
	id, other := enrol(t, inv, "web1"), enrol(t, inv, "web2")
	r := report("x")
	for range 250 {
		r.Events = append(r.Events, desired.Event{Type: "noise", Severity: desired.Info})
	}
	refused := 0
	for range 200 { // 20 a second, for ten seconds
		r.Time = c.now()
		if _, err := inv.Record(t.Context(), id, r); problem.CodeOf(err) == problem.TooMany {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
		c.pass(50 * time.Millisecond)
	}
	if refused < 50 || refused > 150 {
		t.Errorf("%d of 200 reports refused", refused)
	}
	if n := len(events(t, inv, "noise")); n > 1000 {
		t.Errorf("%d events were kept", n)
	}
	if n := len(events(t, inv, "events-dropped")); n == 0 {
		t.Error("nobody is told")
	}
	record(t, inv, other, report("y"))
	c.pass(time.Minute)
	record(t, inv, id, report("x"))
}
