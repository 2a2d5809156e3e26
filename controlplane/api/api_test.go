package api

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/pki"
	"github.com/understudy-dr/understudy/controlplane/push"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

const secret = "a secret of the operator's"

// site is a control plane's API on loopback, with doubles for relay and vault.
type site struct {
	t         testing.TB
	url       string
	handler   http.Handler
	authority *pki.Authority
	inventory *inventory.Inventory

	agents string // the directory with the agent's programs

	mu           sync.Mutex
	at           time.Time
	disconnected []block.MachineID
	told         int // how often a report with findings was recorded
	cleaned      []string
}

func (s *site) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

func (s *site) setClock(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = t
}

// Replication implements Relay.
func (s *site) Replication(block.MachineID) inventory.Replication { return inventory.Replication{} }

// Disconnect implements Relay.
func (s *site) Disconnect(id block.MachineID, _, _ string) {
	s.disconnected = append(s.disconnected, id)
}

// Points implements Points.
func (s *site) Points(context.Context, block.MachineID, time.Time, time.Time, int) (History, error) {
	return History{Items: []failover.Point{}}, nil
}

// Point implements Points.
func (s *site) Point(_ context.Context, _ block.MachineID, spec string) (PointDetail, error) {
	return PointDetail{}, problem.New(problem.PointUnknown, "", "no point %q", spec)
}

// Lock implements Points.
func (s *site) Lock(ctx context.Context, id block.MachineID, spec, _ string) (PointDetail, error) {
	return s.Point(ctx, id, spec)
}

// Unlock implements Points.
func (s *site) Unlock(ctx context.Context, id block.MachineID, spec, _ string) (PointDetail, error) {
	return s.Point(ctx, id, spec)
}

// Start implements Failovers.
func (s *site) Start(_ context.Context, r failover.Request) (failover.Failover, error) {
	return failover.Failover{ID: "f1", Kind: r.Kind, Machine: r.Machine, AskedFor: r.Point, Copies: []failover.Copy{}}, nil
}

// Get implements Failovers.
func (s *site) Get(_ context.Context, id string) (failover.Failover, error) {
	return failover.Failover{ID: id, Copies: []failover.Copy{}}, nil
}

// List implements Failovers.
func (s *site) List(context.Context, block.MachineID) ([]failover.Failover, error) {
	return []failover.Failover{}, nil
}

// ChangePoint implements Failovers.
func (s *site) ChangePoint(_ context.Context, id, point string, _, _ bool) (failover.Failover, error) {
	return failover.Failover{ID: id, Machine: block.NewMachineID(), AskedFor: point, Copies: []failover.Copy{}}, nil
}

// StartDrill implements Failovers.
func (s *site) StartDrill(_ context.Context, machine block.MachineID, _ string) (failover.Failover, error) {
	return failover.Failover{ID: "d1", Kind: failover.Drill, Machine: machine, Copies: []failover.Copy{}}, nil
}

// Drills implements Failovers.
func (s *site) Drills(_ context.Context, machine block.MachineID) ([]failover.Failover, error) {
	return []failover.Failover{{ID: "d1", Kind: failover.Drill, Machine: machine, Copies: []failover.Copy{}}}, nil
}

// PowerOn implements Failovers.
func (s *site) PowerOn(_ context.Context, id string) (failover.Failover, error) {
	return failover.Failover{ID: id, Machine: block.NewMachineID(), Copies: []failover.Copy{}}, nil
}

// Commit implements Failovers.
func (s *site) Commit(_ context.Context, id string) (failover.Failover, error) {
	return failover.Failover{ID: id, Machine: block.NewMachineID(), Status: inventory.JobCommitted, Copies: []failover.Copy{}}, nil
}

// Screenshot implements Failovers.
func (s *site) Screenshot(context.Context, string) ([]byte, error) { return []byte("\x89PNG"), nil }

// Clean implements Failovers.
func (s *site) Clean(_ context.Context, id string, _ bool, _ string) (inventory.Job, error) {
	s.cleaned = append(s.cleaned, id)
	return inventory.Job{ID: "c1", Params: json.RawMessage("{}"), Steps: []inventory.JobStep{}}, nil
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t, at: time.Now(), agents: t.TempDir()}
	var err error
	if s.authority, err = pki.Open(t.TempDir(), s.now); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if s.inventory, err = inventory.Open(t.Context(), filepath.Join(t.TempDir(), "inventory.db"), s.now, log); err != nil {
		t.Fatal(err)
	}
	if err := s.inventory.SetOperator(t.Context(), "admin", secret); err != nil {
		t.Fatal(err)
	}
	s.handler = New(Options{
		Inventory: s.inventory, Enrolment: pki.NewEnrolment(s.authority, s.inventory), Authority: s.authority,
		Relay: s, Points: s, Failovers: s, Agents: push.Agents{Dirs: []string{s.agents}}, Found: func() { s.told++ }, Progress: func(j inventory.Job) inventory.Job { return j },
		Relays: []string{":9443"}, Metrics: prometheus.NewRegistry(), Version: "test", Now: s.now, Log: log,
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := NewServer(ctx, s.handler, s.authority.NewServer(pki.RoleAPI).TLS(), log)
	go func() { _ = server.ServeTLS(ln, "", "") }()
	t.Cleanup(func() {
		cancel()
		_ = server.Close()
		if err := s.inventory.Close(); err != nil {
			t.Error(err)
		}
	})
	s.url = "https://" + ln.Addr().String()
	return s
}

// party is somebody who calls.
type party struct {
	site  *site
	http  *http.Client
	token string
}

func (s *site) party(token string, cert *tls.Certificate) *party {
	config := &tls.Config{RootCAs: s.authority.Pool()} // a party's own clock is right
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	return &party{site: s, token: token, http: &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}}
}

func (s *site) operator() *party { return s.party(secret, nil) }

// do calls the API. Whatever is refused comes back as the problem it was told as.
func (p *party) do(method, path string, in, out any) error {
	p.site.t.Helper()
	var content io.Reader
	switch v := in.(type) {
	case nil:
	case []byte:
		content = bytes.NewReader(v)
	default:
		b, err := json.Marshal(in)
		if err != nil {
			p.site.t.Fatal(err)
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, p.site.url+path, content)
	if err != nil {
		p.site.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	resp, err := p.http.Do(req)
	if err != nil {
		p.site.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.site.t.Fatal(err)
	}
	if resp.StatusCode >= 400 {
		refusal := &problem.Problem{}
		if err := json.Unmarshal(b, refusal); err != nil || resp.Header.Get("Content-Type") != "application/problem+json" || refusal.Status != resp.StatusCode {
			p.site.t.Fatalf("%s %s: status %d is no problem document: %q", method, path, resp.StatusCode, b)
		}
		return refusal
	}
	if raw, ok := out.(*[]byte); ok {
		*raw = b
		return nil
	}
	if out != nil {
		if err := json.Unmarshal(b, out); err != nil {
			p.site.t.Fatalf("%s %s: %q: %v", method, path, b, err)
		}
	}
	return nil
}

func (p *party) must(method, path string, in, out any) {
	p.site.t.Helper()
	if err := p.do(method, path, in, out); err != nil {
		p.site.t.Fatalf("%s %s: %v", method, path, err)
	}
}

func newKey(t testing.TB) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func (s *site) newToken() string {
	s.t.Helper()
	var token NewToken
	s.operator().must("POST", "/v1/tokens", map[string]any{}, &token)
	return token.Secret
}

func (s *site) request(token, csr string) desired.EnrolRequest {
	return desired.EnrolRequest{Version: desired.Version, Token: token, CSR: csr, Time: s.now(), Host: desired.Host{Hostname: "web1"}}
}

// enrol lets a machine enrol, and returns it as a party.
func (s *site) enrol() (*party, block.MachineID) {
	s.t.Helper()
	key, csr := newKey(s.t)
	var got desired.Credentials
	s.party("", nil).must("POST", "/v1/agent/enrol", s.request(s.newToken(), csr), &got)
	block, _ := pem.Decode([]byte(got.Certificate))
	return s.party("", &tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}), got.Machine
}

func (s *site) report(instance string) desired.Report {
	return desired.Report{Version: desired.Version, Instance: instance, Time: s.now(), Host: desired.Host{Hostname: "web1"},
		Disks: []desired.Disk{{ID: block.DiskIDFromName("a"), Name: "a", Path: "/dev/a", Size: 1 << 30}}}
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
