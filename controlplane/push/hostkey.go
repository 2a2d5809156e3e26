package push

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/understudy-dr/understudy/pkg/problem"
)

// HostKeys are the keys by which hosts are known: a known_hosts file as OpenSSH has it,
// which grows when a host is met first. It is safe for concurrent use.
type HostKeys struct {
	Path      string            // of the known_hosts file
	Pinned    map[string]string // fingerprints (SHA256:...) given beforehand, by host as the operator names it
	AcceptNew bool              // takes any key of a host that is not known
	// Ask shows somebody a key that is not known and says whether it is taken; nil where
	// there is nobody. It is called for one host at a time.
	Ask func(ctx context.Context, host, kind, fingerprint string) (bool, error)

	mu sync.Mutex
}

// check is nil for the key that the host had before, or that is taken as its first.
func (h *HostKeys) check(ctx context.Context, host, addr string, remote net.Addr, key ssh.PublicKey) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	shown := ssh.FingerprintSHA256(key)
	pin := h.Pinned[host]
	if pin != "" && pin != shown {
		return problem.New(problem.CertificateForeign, "compare it with ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub on the machine's console; if it is not among those, somebody sits in between",
			"%s shows the host key %s (%s), not %s as --host-key says", host, shown, key.Type(), pin)
	}
	err := h.known(addr, remote, key)
	if err == nil {
		return nil
	}
	stored := (*knownhosts.KeyError)(nil)
	if !errors.As(err, &stored) { // revoked, or the file cannot be read
		return problem.New(problem.CertificateForeign, "look at "+h.Path, "the host key %s of %s cannot be accepted: %v", shown, host, err)
	}
	if len(stored.Want) > 0 {
		return problem.New(problem.CertificateForeign,
			fmt.Sprintf("if it was installed anew, forget the old key (ssh-keygen -R '%s' -f %s) and push again; if not, somebody sits in between", knownhosts.Normalize(addr), h.Path),
			"%s shows another host key than before: %s (%s), known is %s (line %d of %s)", host, shown, key.Type(), ssh.FingerprintSHA256(stored.Want[0].Key), stored.Want[0].Line, h.Path)
	}
	if pin == "" && !h.AcceptNew {
		if err := h.meet(ctx, host, key.Type(), shown); err != nil {
			return err
		}
	}
	return h.keep(addr, key)
}

// meet has somebody decide about a key that is not known.
func (h *HostKeys) meet(ctx context.Context, host, kind, shown string) error {
	refused := problem.New(problem.CertificateForeign,
		fmt.Sprintf("compare it with ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub on the machine's console and push with --host-key %s=%s, or take any first key with --accept-new-host-key", host, shown),
		"%s is not known; it shows the host key %s (%s)", host, shown, kind)
	if h.Ask == nil {
		return refused
	}
	taken, err := h.Ask(ctx, host, kind, shown)
	if err == nil && !taken {
		return refused
	}
	return err
}

// known is nil if the file has this key for the address, a KeyError if it has others or none.
func (h *HostKeys) known(addr string, remote net.Addr, key ssh.PublicKey) error {
	look, err := knownhosts.New(h.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return &knownhosts.KeyError{}
	}
	if err != nil {
		return err
	}
	return look(addr, remote, key)
}

func (h *HostKeys) keep(addr string, key ssh.PublicKey) (err error) {
	if err := os.MkdirAll(filepath.Dir(h.Path), 0o700); err != nil {
		return fmt.Errorf("keeping the host key: %w", err)
	}
	f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keeping the host key: %w", err)
	}
	_, err = fmt.Fprintln(f, knownhosts.Line([]string{addr}, key))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("keeping the host key: %w", err)
	}
	return nil
}

// algorithms are those of the keys that a host is known by: asked for others, it would
// show one that nobody has seen, which would look like a changed one. Nil leaves the choice
// to both sides.
func (h *HostKeys) algorithms(addr string) (names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, own, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil
	}
	nobodys, err := ssh.NewSignerFromKey(own)
	if err != nil {
		return nil
	}
	stored := (*knownhosts.KeyError)(nil)
	if err := h.known(addr, &net.TCPAddr{IP: net.IPv4zero}, nobodys.PublicKey()); !errors.As(err, &stored) {
		return nil
	}
	for _, k := range stored.Want {
		if kind := k.Key.Type(); kind == ssh.KeyAlgoRSA {
			names = append(names, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			names = append(names, kind)
		}
	}
	return names
}
