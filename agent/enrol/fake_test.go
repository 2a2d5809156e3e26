package enrol

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// plane is a control plane as agents see it: an authority, and the four routes.
type plane struct {
	t       testing.TB
	key     *ecdsa.PrivateKey
	ca      *x509.Certificate
	server  *httptest.Server
	machine block.MachineID

	mu       sync.Mutex
	now      time.Time
	requests []desired.EnrolRequest
	keys     map[string]bool // public keys that enrolled or renewed
	answer   func(w http.ResponseWriter, r *http.Request) bool
	life     time.Duration
	role     string
}

func newPlane(t testing.TB) *plane {
	t.Helper()
	p := &plane{t: t, machine: block.NewMachineID(), now: time.Now().Truncate(time.Second), keys: map[string]bool{}, life: 7 * 24 * time.Hour, role: roleAPI}
	p.key = key(t)
	p.ca = p.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, &p.key.PublicKey, 10*365*24*time.Hour)
	p.server = httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	p.server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{*p.own()}, NextProtos: []string{"http/1.1"}}, nil
	}}
	p.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	p.server.StartTLS()
	t.Cleanup(p.server.Close)
	return p
}

func key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (p *plane) clock() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

func (p *plane) sign(template *x509.Certificate, public *ecdsa.PublicKey, life time.Duration) *x509.Certificate {
	now := p.clock()
	template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.Add(life)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	parent := p.ca
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// own is a fresh server certificate, with the authority's behind it.
func (p *plane) own() *tls.Certificate {
	k := key(p.t)
	u, err := url.Parse(p.role)
	if err != nil {
		p.t.Fatal(err)
	}
	c := p.sign(&x509.Certificate{URIs: []*url.URL{u}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, &k.PublicKey, 30*24*time.Hour)
	return &tls.Certificate{Certificate: [][]byte{c.Raw, p.ca.Raw}, PrivateKey: k}
}

func (p *plane) serve(w http.ResponseWriter, r *http.Request) {
	if p.answer != nil && p.answer(w, r) {
		return
	}
	switch r.URL.Path {
	case "/v1/agent/enrol":
		var req desired.EnrolRequest
		p.read(r, &req)
		p.mu.Lock()
		p.requests = append(p.requests, req)
		p.mu.Unlock()
		p.write(w, p.credentials(req.CSR))
	case "/v1/agent/renew":
		if len(r.TLS.PeerCertificates) == 0 {
			p.t.Error("a renewal without the old certificate")
		}
		var req desired.RenewRequest
		p.read(r, &req)
		p.write(w, p.credentials(req.CSR))
	case "/v1/agent/desired":
		p.write(w, desired.State{Version: desired.Version, Machine: p.machine, Generation: 7, Relays: []string{":9443", "relay.example:1"}})
	case "/v1/agent/report":
		var req desired.Report
		p.read(r, &req)
		p.write(w, desired.ReportReply{Generation: uint64(len(req.Disks))})
	default:
		http.NotFound(w, r)
	}
}

func (p *plane) credentials(csr string) desired.Credentials {
	b, _ := pem.Decode([]byte(csr))
	req, err := x509.ParseCertificateRequest(b.Bytes)
	if err != nil {
		p.t.Error(err)
	}
	public := req.PublicKey.(*ecdsa.PublicKey)
	p.mu.Lock()
	p.keys[string(req.RawSubjectPublicKeyInfo)] = true
	p.mu.Unlock()
	c := p.sign(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, public, p.life)
	return desired.Credentials{Machine: p.machine, Certificate: string(encode("CERTIFICATE", c.Raw)), CA: string(encode("CERTIFICATE", p.ca.Raw)), NotAfter: c.NotAfter}
}

func (p *plane) read(r *http.Request, v any) {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		p.t.Error(err)
	}
}

func (p *plane) write(w http.ResponseWriter, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		p.t.Error(err)
	}
}

// options enrol a machine with this plane into a new directory.
func (p *plane) options() Options {
	token := desired.NewToken(sha256.Sum256(p.ca.Raw))
	return Options{Dir: p.t.TempDir(), Server: strings.TrimPrefix(p.server.URL, "https://"), Token: token.String(), Host: desired.Host{Hostname: "web1"}, Now: p.clock}
}

func want(t *testing.T, err error, code problem.Code, words ...string) {
	t.Helper()
	if problem.CodeOf(err) != code {
		t.Fatalf("%v, want code %s", err, code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}
