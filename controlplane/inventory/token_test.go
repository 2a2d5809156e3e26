package inventory

import (
	"errors"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/pki"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

func newToken(t *testing.T, inv *Inventory, machine block.MachineID) (string, Token) {
	t.Helper()
	secret := desired.NewToken([32]byte{}).Secret
	token, err := inv.CreateToken(t.Context(), secret, machine, "a note", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return secret, token
}

func TestTokenIsSpentOnce(t *testing.T) {
	inv, _ := open(t)
	secret, _ := newToken(t, inv, block.MachineID{})
	first, err := redeem(inv, secret, "key", "web1")
	if err != nil {
		t.Fatal(err)
	}
	// The answer was lost, and the agent asks again with the same key.
	again, err := redeem(inv, secret, "key", "web1")
	if err != nil || again.Machine != first.Machine {
		t.Fatalf("the same request again: %v, %v", again.Machine, err)
	}
	want(t, inv.Authorize(t.Context(), first.Machine, first.Serial), problem.CertificateRevoked)
	_, err = redeem(inv, secret, "another key", "thief")
	want(t, err, problem.TokenUsed, first.Machine.String())
	if machines, err := inv.Machines(t.Context()); err != nil || len(machines) != 1 {
		t.Fatal(machines, err)
	}
}

func TestWrongTokens(t *testing.T) {
	inv, c := open(t)
	_, err := redeem(inv, desired.NewToken([32]byte{}).Secret, "key", "web1")
	want(t, err, problem.TokenWrong)

	secret, token := newToken(t, inv, block.MachineID{})
	if err := inv.RevokeToken(t.Context(), token.ID); err != nil {
		t.Fatal(err)
	}
	_, err = redeem(inv, secret, "key", "web1")
	want(t, err, problem.TokenRevoked, token.ID)

	secret, token = newToken(t, inv, block.MachineID{})
	c.pass(time.Hour + time.Second)
	_, err = redeem(inv, secret, "key", "web1")
	want(t, err, problem.TokenExpired, token.ID, "19:00:00", "19:00:01")
	want(t, inv.RevokeToken(t.Context(), "no such"), problem.NotFound)
	for _, life := range []time.Duration{-1, time.Second, MaxTokenLife + 1} {
		_, err := inv.CreateToken(t.Context(), "s", block.MachineID{}, "", life)
		want(t, err, problem.Invalid)
	}
}

func TestTokenThatFailsIsNotSpent(t *testing.T) {
	inv, _ := open(t)
	secret, _ := newToken(t, inv, block.MachineID{})
	boom := errors.New("boom")
	if _, err := inv.Redeem(t.Context(), secret, "key", desired.Host{Hostname: "web1"}, func(block.MachineID) (pki.Issued, error) { return pki.Issued{}, boom }); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if machines, err := inv.Machines(t.Context()); err != nil || len(machines) != 0 {
		t.Fatal("a machine is left behind", machines, err)
	}
	if _, err := redeem(inv, secret, "another key", "web1"); err != nil {
		t.Fatal(err)
	}
}

func TestTokenForAMachineKeepsItsIdentity(t *testing.T) {
	inv, _ := open(t)
	id := enrol(t, inv, "web1")
	old := serialOf(t, inv, id)
	secret, _ := newToken(t, inv, id)
	issued, err := redeem(inv, secret, "new key", "web1")
	if err != nil || issued.Machine != id {
		t.Fatal(issued, err)
	}
	want(t, inv.Authorize(t.Context(), id, old), problem.CertificateRevoked, "enrolled again")
	if err := inv.Authorize(t.Context(), id, issued.Serial); err != nil {
		t.Fatal(err)
	}
}

func TestTokenListTellsTheStatus(t *testing.T) {
	inv, c := open(t)
	newToken(t, inv, block.MachineID{})
	secret, _ := newToken(t, inv, block.MachineID{})
	if _, err := redeem(inv, secret, "key", "web1"); err != nil {
		t.Fatal(err)
	}
	_, revoked := newToken(t, inv, block.MachineID{})
	if err := inv.RevokeToken(t.Context(), revoked.ID); err != nil {
		t.Fatal(err)
	}
	count := func() map[string]int {
		tokens, err := inv.Tokens(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n := map[string]int{}
		for _, k := range tokens {
			n[k.Status]++
		}
		return n
	}
	if n := count(); n["open"] != 1 || n["used"] != 1 || n["revoked"] != 1 {
		t.Error(n)
	}
	c.pass(2 * time.Hour)
	if n := count(); n["expired"] != 1 || n["used"] != 1 || n["revoked"] != 1 {
		t.Error(n)
	}
}
