package enrol

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Options is what an enrolment needs.
type Options struct {
	Dir    string // where the identity is kept
	Server string // the control plane: host, host:port or https://host:port
	Token  string
	Host   desired.Host
	Force  bool // replace an identity that is there
	Now    func() time.Time
}

// Enrol gets this machine an identity and keeps it in o.Dir. It can be repeated: what
// was done stays done, also if the control plane's answer was lost.
func Enrol(ctx context.Context, o Options) (*Identity, error) {
	token, err := desired.ParseToken(o.Token)
	if err != nil {
		return nil, err
	}
	server, err := ServerURL(o.Server)
	if err != nil {
		return nil, err
	}
	if old, err := Load(o.Dir, o.Now); err == nil && !o.Force {
		return nil, problem.New(problem.Exists, "use --force to enrol it again; with a token made for this machine (understudy token create --machine "+old.Machine.String()+") it keeps its history",
			"this machine is enrolled already, as %s with %s", old.Machine, old.Server)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	key, err := pendingKey(o.Dir)
	if err != nil {
		return nil, err
	}
	csr, err := request(key)
	if err != nil {
		return nil, err
	}
	c := newClient(server, pinned(token.Fingerprint, o.Now))
	var got desired.Credentials
	err = c.call(ctx, "POST", "/v1/agent/enrol", desired.EnrolRequest{
		Version: desired.Version, Token: token.String(), CSR: csr, Time: o.Now(), Host: o.Host,
	}, &got)
	if err != nil {
		return nil, err
	}
	return keep(o, server, key, got)
}

// ServerURL is the control plane's address in full; without a port it is 443.
func ServerURL(s string) (string, error) {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return "", problem.New(problem.Invalid, "give it as host, host:port or https://host:port", "%q is not the address of a control plane", s)
	}
	return "https://" + u.Host, nil
}

// pendingKey is the key of an enrolment under way. It is kept from before the first
// attempt, because the control plane takes a token twice only with the same key.
func pendingKey(dir string) (*ecdsa.PrivateKey, error) {
	_, _, path := paths(dir)
	b, err := os.ReadFile(path)
	if err == nil {
		if key, err := parseKey(b); err == nil {
			return key, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("enrol: draw a key: %w", err)
	}
	text, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, writeFile(path, text)
}

func parseKey(b []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("not a PEM file")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	if ec, ok := key.(*ecdsa.PrivateKey); ok {
		return ec, nil
	}
	return nil, fmt.Errorf("a %T", key)
}

func request(key *ecdsa.PrivateKey) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return "", fmt.Errorf("enrol: make a signing request: %w", err)
	}
	return string(encode("CERTIFICATE REQUEST", der)), nil
}

// pinned trusts the one authority whose certificate has this fingerprint and comes
// along with the server's: the token told the fingerprint.
func pinned(fingerprint [sha256.Size]byte, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(cs tls.ConnectionState) error {
			for _, c := range cs.PeerCertificates {
				if sha256.Sum256(c.Raw) != fingerprint {
					continue
				}
				roots := x509.NewCertPool()
				roots.AddCert(c)
				return verify(cs.PeerCertificates, roots, now())
			}
			return problem.New(problem.CertificateForeign, "check the address, and that the token comes from this control plane; if both are right, somebody sits in between",
				"the server is not the control plane that made the token: its fingerprint is another one")
		},
	}
}

// keep checks what came and writes it down, the place last: Load looks there first.
func keep(o Options, server string, key *ecdsa.PrivateKey, got desired.Credentials) (*Identity, error) {
	id := &Identity{Machine: got.Machine, Server: server, dir: o.Dir, now: o.Now}
	if err := id.replace(key, got); err != nil {
		return nil, err
	}
	text, err := json.Marshal(place{Machine: got.Machine, Server: server})
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	_, where, pending := paths(o.Dir)
	if err := writeFile(where, append(text, '\n')); err != nil {
		return nil, err
	}
	if err := os.Remove(pending); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	return id, nil
}

// replace writes key and credentials down and uses them from now on.
func (id *Identity) replace(key *ecdsa.PrivateKey, got desired.Credentials) error {
	content, err := encodeKey(key)
	if err != nil {
		return err
	}
	content = append(content, got.Certificate...)
	content = append(content, got.CA...)
	next := &Identity{}
	if err := next.adopt(content); err != nil {
		return fmt.Errorf("enrol: the control plane sent credentials that cannot be used: %w", err)
	}
	credentials, _, _ := paths(id.dir)
	if err := writeFile(credentials, content); err != nil {
		return err
	}
	return id.adopt(content)
}
