package enrol

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

func TestEnrolLoadAndTalk(t *testing.T) {
	p := newPlane(t)
	o := p.options()
	if _, err := Load(o.Dir, p.clock); !errors.Is(err, ErrNotEnrolled) {
		t.Fatal(err)
	}
	if _, err := Enrol(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	id, err := Load(o.Dir, p.clock)
	if err != nil || id.Machine != p.machine || id.Server != p.server.URL {
		t.Fatal(id, err)
	}
	c := NewClient(id, slog.New(slog.DiscardHandler))
	s, err := c.Desired(t.Context(), 3)
	if err != nil || s.Generation != 7 || s.Relays[0] != "127.0.0.1:9443" || s.Relays[1] != "relay.example:1" {
		t.Fatal(s, err)
	}
	if r, err := c.Report(t.Context(), desired.Report{Disks: []desired.Disk{{ID: block.DiskIDFromName("a")}}}); err != nil || r.Generation != 1 {
		t.Fatal(r, err)
	}
	if cert, err := id.Certificate(); err != nil || cert.Leaf == nil || id.Roots() == nil {
		t.Fatal(cert, err)
	}
	if runtime.GOOS != "windows" {
		onlyOurs(t, o.Dir)
	}
}

// onlyOurs fails if anybody else may read a file of the identity.
func onlyOurs(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestEnrolAgainNeedsForce(t *testing.T) {
	p := newPlane(t)
	o := p.options()
	if _, err := Enrol(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	_, err := Enrol(t.Context(), o)
	want(t, err, problem.Exists, "--force", p.machine.String())
	o.Force = true
	if _, err := Enrol(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if len(p.keys) != 2 {
		t.Errorf("%d keys for two enrolments, want a new one each", len(p.keys))
	}
}

// TestLostAnswerIsAskedForWithTheSameKey: else the token would count as used.
func TestLostAnswerIsAskedForWithTheSameKey(t *testing.T) {
	p := newPlane(t)
	o := p.options()
	lost := false
	p.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if lost {
			return false
		}
		lost = true
		p.answer = nil
		p.serve(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler) // the control plane did it, and nobody hears of it
	}
	if _, err := Enrol(t.Context(), o); problem.CodeOf(err) != problem.Unavailable {
		t.Fatal(err)
	}
	if _, err := Enrol(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if len(p.requests) != 2 || len(p.keys) != 1 {
		t.Errorf("%d requests with %d keys, want 2 with 1", len(p.requests), len(p.keys))
	}
}

func TestEnrolTrustsNobodyButTheTokensAuthority(t *testing.T) {
	p, other := newPlane(t), newPlane(t)
	o := p.options()
	o.Server = other.server.URL
	_, err := Enrol(t.Context(), o)
	want(t, err, problem.CertificateForeign, "fingerprint", "in between")
	if len(other.requests) != 0 {
		t.Fatal("the token was shown to a stranger")
	}
	p.role = "understudy://relay"
	_, err = Enrol(t.Context(), p.options())
	want(t, err, problem.CertificateForeign, "not the control plane's API")
}

func TestEnrolNamesAClockThatIsWrong(t *testing.T) {
	p := newPlane(t)
	for skew, words := range map[time.Duration]string{-3 * time.Hour: "behind", 40 * 24 * time.Hour: "ahead of"} {
		o := p.options()
		o.Now = func() time.Time { return p.clock().Add(skew) }
		_, err := Enrol(t.Context(), o)
		want(t, err, problem.ClockSkew, words, "chrony")
	}
}

func TestEnrolRefusals(t *testing.T) {
	p := newPlane(t)
	o := p.options()
	o.Token = "junk"
	_, err := Enrol(t.Context(), o)
	want(t, err, problem.TokenWrong, "not an enrolment token")
	for _, bad := range []string{"", "http://x", "https://x/path", "https://"} {
		o := p.options()
		o.Server = bad
		_, err := Enrol(t.Context(), o)
		want(t, err, problem.Invalid)
	}
	o = p.options()
	o.Server = "127.0.0.1:1"
	_, err = Enrol(t.Context(), o)
	want(t, err, problem.Unavailable, "https://127.0.0.1:1", "cannot be reached")
	p.answer = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusUnauthorized)
		p.write(w, problem.New(problem.TokenExpired, "make another", "token 12 expired"))
		return true
	}
	_, err = Enrol(t.Context(), p.options())
	want(t, err, problem.TokenExpired, "token 12", "make another")
	p.answer = func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "<html>a proxy's login page</html>", http.StatusForbidden)
		return true
	}
	_, err = Enrol(t.Context(), p.options())
	want(t, err, problem.Unavailable, "proxy", "403")
	p.answer = func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = w.Write([]byte("{}"))
		return true
	}
	o = p.options()
	if _, err = Enrol(t.Context(), o); err == nil || !strings.Contains(err.Error(), "cannot be used") {
		t.Error(err)
	}
	if _, err := Load(o.Dir, p.clock); !errors.Is(err, ErrNotEnrolled) {
		t.Error("half an enrolment is left:", err)
	}
}

func TestRenewalComesAtTwoThirdsAndSurvives(t *testing.T) {
	p := newPlane(t)
	o := p.options()
	id, err := Enrol(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(id, slog.New(slog.DiscardHandler))
	if wait := c.untilRenewal(); wait < 4*24*time.Hour || wait > 5*24*time.Hour {
		t.Errorf("renewal in %s, want after two thirds of seven days", wait)
	}
	old := id.NotAfter()
	p.mu.Lock()
	p.now = p.now.Add(5 * 24 * time.Hour)
	p.mu.Unlock()
	if wait := c.untilRenewal(); wait > 0 {
		t.Errorf("renewal in %s, want now", wait)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go c.KeepFresh(ctx)
	for range 500 {
		if id.NotAfter().After(old) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	again, err := Load(o.Dir, p.clock)
	if err != nil || !again.NotAfter().Equal(old.Add(5*24*time.Hour)) || !id.NotAfter().Equal(again.NotAfter()) {
		t.Fatal(err, old, id.NotAfter())
	}
	if len(p.keys) != 2 {
		t.Error("a renewal must use a new key")
	}
}

func TestRenewalForAnotherMachineIsRefused(t *testing.T) {
	p := newPlane(t)
	id, err := Enrol(t.Context(), p.options())
	if err != nil {
		t.Fatal(err)
	}
	before := id.NotAfter()
	p.machine[0]++
	c := NewClient(id, slog.New(slog.DiscardHandler))
	if err := c.Renew(t.Context()); err == nil {
		t.Error("took another machine's certificate")
	}
	if _, err := c.Desired(t.Context(), 0); err == nil {
		t.Error("took another machine's desired state")
	}
	if !id.NotAfter().Equal(before) {
		t.Error("the identity has changed")
	}
}

func TestLoadOfDamagedFiles(t *testing.T) {
	p := newPlane(t)
	for name, spoil := range map[string]func(credentials, where string) error{
		"place":       func(_, where string) error { return os.WriteFile(where, []byte("{"), 0o600) },
		"credentials": func(c, _ string) error { return os.Truncate(c, 100) },
		"no CA": func(c, _ string) error {
			b, err := os.ReadFile(c)
			if err != nil {
				return err
			}
			return os.WriteFile(c, b[:strings.LastIndex(string(b), "-----BEGIN")], 0o600)
		},
	} {
		o := p.options()
		if _, err := Enrol(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		credentials, where, _ := paths(o.Dir)
		if err := spoil(credentials, where); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(o.Dir, p.clock); err == nil || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), "enrol it again") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
