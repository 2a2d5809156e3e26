// Package enrol is the agent's identity and its conversation with the control plane:
// how a machine gets its certificate, keeps it fresh, learns what is wanted of it and
// reports how it is.
//
// DIR/identity.pem holds the machine's key and certificate and the authority's
// certificate, DIR/identity.json where the control plane is; both are mode 0600 and
// replaced atomically, so that an agent that is killed in the middle of a renewal
// starts again with the old ones or the new ones, never with half of each. The key
// never leaves the machine.
package enrol

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// ErrNotEnrolled is Load's answer where no machine has enrolled.
var ErrNotEnrolled = errors.New("this machine is not enrolled: make a token on the control plane (understudy token create) and run understudy-agent enrol")

// Identity is the machine's proof of who it is. It is safe for concurrent use.
type Identity struct {
	Machine block.MachineID
	Server  string // https://host:port of the control plane

	dir string
	now func() time.Time

	mu    sync.Mutex
	cert  *tls.Certificate
	roots *x509.CertPool
	ca    []byte // PEM
}

// place is identity.json.
type place struct {
	Machine block.MachineID `json:"machine"`
	Server  string          `json:"server"`
}

func paths(dir string) (credentials, where, pending string) {
	return filepath.Join(dir, "identity.pem"), filepath.Join(dir, "identity.json"), filepath.Join(dir, "enrolling.pem")
}

// Load reads the identity in dir. The error is ErrNotEnrolled if there is none.
func Load(dir string, now func() time.Time) (*Identity, error) {
	credentials, where, _ := paths(dir)
	b, err := os.ReadFile(where)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotEnrolled
	}
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	var p place
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, damaged(where, err)
	}
	if p.Machine.IsZero() || p.Server == "" {
		return nil, damaged(where, errors.New("it names no machine or no control plane"))
	}
	b, err = os.ReadFile(credentials)
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	id := &Identity{Machine: p.Machine, Server: p.Server, dir: dir, now: now}
	if err := id.adopt(b); err != nil {
		return nil, damaged(credentials, err)
	}
	return id, nil
}

func damaged(path string, err error) error {
	return fmt.Errorf("enrol: %s is damaged: %w: make a token for this machine (understudy token create --machine) and enrol it again", path, err)
}

// adopt takes key, certificate and authority from identity.pem's content.
func (id *Identity) adopt(content []byte) error {
	cert, err := tls.X509KeyPair(content, content)
	if err != nil {
		return err
	}
	if len(cert.Certificate) != 2 {
		return fmt.Errorf("it holds %d certificates: want the machine's and the authority's", len(cert.Certificate))
	}
	authority, err := x509.ParseCertificate(cert.Certificate[1])
	if err != nil {
		return err
	}
	if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
		return err
	}
	cert.Certificate = cert.Certificate[:1] // the control plane knows its own
	id.mu.Lock()
	defer id.mu.Unlock()
	id.roots = x509.NewCertPool()
	id.roots.AddCert(authority)
	id.cert, id.ca = &cert, encode("CERTIFICATE", authority.Raw)
	return nil
}

// NotAfter is when the present certificate ends.
func (id *Identity) NotAfter() time.Time {
	cert, _ := id.present()
	return cert.Leaf.NotAfter
}

func (id *Identity) present() (*tls.Certificate, *x509.CertPool) {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.cert, id.roots
}

// roleAPI is what the control plane's certificate must prove.
const roleAPI = "understudy://api"

// Certificate is the machine's present certificate, for connections to the relay.
func (id *Identity) Certificate() (*tls.Certificate, error) {
	cert, _ := id.present()
	return cert, nil
}

// Roots holds the authority that the relay's certificate must come from.
func (id *Identity) Roots() *x509.CertPool {
	_, roots := id.present()
	return roots
}

func (id *Identity) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, _ := id.present()
			return cert, nil
		},
		// The chain and the role are verified below instead of a DNS name.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, roots := id.present()
			return verify(cs.PeerCertificates, roots, id.now())
		},
	}
}

// verify accepts a chain that ends in one of the roots and whose leaf proves to be the
// control plane, whatever its address. The time is looked at apart, to name a clock that is wrong as such.
func verify(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	if len(chain) == 0 {
		return errors.New("the server sent no certificate")
	}
	leaf := chain[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: leaf.NotAfter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return problem.New(problem.CertificateForeign, "check the address; if the control plane was set up anew, enrol this machine again",
			"the server is not the control plane that this machine enrolled with (%v)", err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != roleAPI {
		return problem.New(problem.CertificateForeign, "check the address and the port", "the server is not the control plane's API")
	}
	const remedy = "set the wrong clock right (chrony, ntp)"
	if now.Before(leaf.NotBefore) {
		return problem.New(problem.ClockSkew, remedy, "this machine's clock (%s) is behind the control plane's: the server's certificate begins at %s",
			now.UTC().Format(time.RFC3339), leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if now.After(leaf.NotAfter) {
		return problem.New(problem.ClockSkew, remedy, "this machine's clock (%s) is ahead of the control plane's: the server's certificate, always fresh, ends at %s",
			now.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

func encode(what string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: what, Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("enrol: encode the key: %w", err)
	}
	return encode("PRIVATE KEY", der), nil
}

// writeFile replaces the file whole or not at all, also across a power cut.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("enrol: write %s: %w", path, err)
	}
	return nil
}
