package push

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/understudy-dr/understudy/pkg/problem"
)

func hostKey(t *testing.T, kind string) ssh.PublicKey {
	t.Helper()
	var private any
	var err error
	if kind == ssh.KeyAlgoED25519 {
		_, private, err = ed25519.GenerateKey(rand.Reader)
	} else {
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer.PublicKey()
}

var anywhere = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 22}

// TestOperatorIsAskedOnce: a key that was accepted is known from then on, for that host and
// port alone; one that was not is not kept.
func TestOperatorIsAskedOnce(t *testing.T) {
	var asked []string
	answer := false
	h := &HostKeys{Path: filepath.Join(t.TempDir(), "new", "known_hosts"), Ask: func(_ context.Context, host, _, fingerprint string) (bool, error) {
		asked = append(asked, host+" "+fingerprint)
		return answer, nil
	}}
	key := hostKey(t, ssh.KeyAlgoED25519)
	check := func(host, addr string) error { return h.check(t.Context(), host, addr, anywhere, key) }
	if err := check("web1", "web1:22"); problem.CodeOf(err) != problem.CertificateForeign {
		t.Error(err)
	}
	answer = true
	for range 2 {
		if err := check("web1", "web1:22"); err != nil {
			t.Error(err)
		}
	}
	if err := check("web1:2222", "web1:2222"); err != nil {
		t.Error(err)
	}
	if len(asked) != 3 || asked[0] != "web1 "+ssh.FingerprintSHA256(key) {
		t.Errorf("asked %q", asked)
	}
	if info, err := os.Stat(h.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	h.Ask = func(context.Context, string, string, string) (bool, error) { return false, errors.New("hung up") }
	if err := check("web2", "web2:22"); err == nil || !strings.Contains(err.Error(), "hung up") {
		t.Error(err)
	}
}

// TestKnownKeysAreAskedFor: a host that is known by one kind of key must not be asked for
// another, which would look like a changed one.
func TestKnownKeysAreAskedFor(t *testing.T) {
	h := &HostKeys{Path: filepath.Join(t.TempDir(), "known_hosts"), AcceptNew: true}
	if names := h.algorithms("web1:22"); names != nil {
		t.Errorf("of a stranger %q are asked for", names)
	}
	if err := h.check(t.Context(), "web1", "web1:22", anywhere, hostKey(t, ssh.KeyAlgoECDSA256)); err != nil {
		t.Fatal(err)
	}
	if names := h.algorithms("web1:22"); !slices.Equal(names, []string{ssh.KeyAlgoECDSA256}) {
		t.Errorf("%q are asked for", names)
	}
	err := h.check(t.Context(), "web1", "web1:22", anywhere, hostKey(t, ssh.KeyAlgoED25519))
	if problem.CodeOf(err) != problem.CertificateForeign || !strings.Contains(err.Error(), "another host key than before") {
		t.Errorf("another key, which is accepted if new: %v", err)
	}
}

// TestManyMeetAtOnce: each line of the file is whole.
func TestManyMeetAtOnce(t *testing.T) {
	h := &HostKeys{Path: filepath.Join(t.TempDir(), "known_hosts"), AcceptNew: true}
	keys := make([]ssh.PublicKey, 20)
	var all sync.WaitGroup
	for i := range keys {
		keys[i] = hostKey(t, ssh.KeyAlgoED25519)
		all.Go(func() {
			addr := net.JoinHostPort("web"+string(rune('a'+i)), "22")
			if err := h.check(t.Context(), addr, addr, anywhere, keys[i]); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	h.AcceptNew = false
	for i, key := range keys {
		addr := net.JoinHostPort("web"+string(rune('a'+i)), "22")
		if err := h.check(t.Context(), addr, addr, anywhere, key); err != nil {
			t.Error(err)
		}
	}
}

func TestBrokenKnownHosts(t *testing.T) {
	h := &HostKeys{Path: filepath.Join(t.TempDir(), "known_hosts"), AcceptNew: true}
	if err := os.WriteFile(h.Path, []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.check(t.Context(), "web1", "web1:22", anywhere, hostKey(t, ssh.KeyAlgoED25519)); problem.CodeOf(err) != problem.CertificateForeign {
		t.Errorf("a file that cannot be read lets a key in: %v", err)
	}
}
