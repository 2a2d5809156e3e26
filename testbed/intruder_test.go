//go:build testbed

package testbed

import (
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// TestGuestCannotTouchItsPast: whoever took over the machine has the agent's
// certificate. With it no operation of the API but the agent's own answers.
func TestGuestCannotTouchItsPast(t *testing.T) {
	r := protected(t, setup{})
	at := r.untilPoint(time.Now())
	ops, err := r.site.Operations(t.Context())
	r.must(err)
	if len(ops) < 15 {
		t.Fatalf("only %d operations described: this proves little", len(ops))
	}
	client, err := r.machine.Client()
	r.must(err)
	tried := 0
	for _, op := range ops {
		if strings.HasPrefix(op.Path, "/v1/agent/") || op.Path == "/v1/system/health" || strings.HasPrefix(op.Path, "/v1/install/") {
			continue // its own; everybody's: nothing in them is secret
		}
		tried++
		status, err := op.Call(t.Context(), client, r.machine.ID())
		if err != nil {
			t.Errorf("%s %s: %v", op.Method, op.Path, err)
		} else if status != 401 && status != 403 {
			t.Errorf("%s %s with the agent's certificate: status %d, want 401 or 403", op.Method, op.Path, status)
		}
	}
	t.Logf("%d operations refused", tried)
	r.verify(at.Format(time.RFC3339Nano))
}

// TestWrongTokens: each wrong way to enrol is refused with a reason and a remedy.
func TestWrongTokens(t *testing.T) {
	r := newRig(t, setup{quiet: true})
	token, err := r.site.Token(t.Context())
	r.must(err)
	other := r.site.NewMachine("other")
	r.must(other.EnrolWith(t.Context(), token))
	for name, c := range map[string]struct{ token, want string }{
		"not a token":       {"open sesame", "token"},
		"used":              {token, "used"},
		"wrong secret":      {token[:10] + strings.Repeat("0", 10) + token[20:], "token"},
		"another authority": {token[:len(token)-8] + "00000000", "fingerprint"},
	} {
		t.Run(name, func(t *testing.T) {
			err := r.site.NewMachine("wrong-"+strings.ReplaceAll(name, " ", "-")).EnrolWith(t.Context(), c.token)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want a refusal that says %q", err, c.want)
			}
		})
	}
}

// TestJunkOnThePorts: whatever strangers send, replication goes on beside it.
func TestJunkOnThePorts(t *testing.T) {
	r := protected(t, setup{})
	for _, addr := range []string{r.site.API, r.site.Relay} {
		r.must(lab.Junk(t.Context(), addr, 40))
	}
	if r.site.Serve.PID() == 0 {
		t.Fatalf("the control plane died of it%s", r.site.Serve.Tail())
	}
	r.verifyNow()
	r.wantEpoch(1)
}
