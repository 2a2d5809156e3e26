package api

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/pki"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// path is a route's path with its parameters filled in.
func (r route) filled() string {
	parts := strings.Split(r.path, "/")
	for i, p := range parts {
		if strings.HasPrefix(p, "{") {
			parts[i] = "web1"
		}
	}
	return strings.Join(parts, "/")
}

func routesOf(t *testing.T) []route {
	t.Helper()
	routes := (&server{}).routes()
	if len(routes) < 25 {
		t.Fatalf("only %d routes: the rules would hold over nothing", len(routes))
	}
	return routes
}

// TestGuestCannotTouchAnything: with an agent's certificate, no route but the agent's
// own answers, whatever operator's token comes along.
func TestGuestCannotTouchAnything(t *testing.T) {
	s := newSite(t)
	guest, _ := s.enrol()
	withToken := *guest
	withToken.token = secret
	for _, r := range routesOf(t) {
		if r.who != operator {
			continue
		}
		for _, p := range []*party{guest, &withToken} {
			if code := problem.CodeOf(p.do(r.method, r.filled(), map[string]any{}, nil)); code != problem.Forbidden {
				t.Errorf("%s %s with an agent's certificate: %q, want %s", r.method, r.path, code, problem.Forbidden)
			}
		}
	}
	want(t, guest.do("GET", "/metrics", nil, nil), problem.Forbidden)
}

// TestStrangersGetNothing: without any proof, and with a wrong one.
func TestStrangersGetNothing(t *testing.T) {
	s := newSite(t)
	open := map[string]bool{"GET /v1/system/health": true, "POST /v1/agent/enrol": true,
		"GET /v1/install/ca.der": true, "GET /v1/install/agent.sh": true, "GET /v1/install/agent/linux/{arch}": true}
	for _, p := range []*party{s.party("", nil), s.party("a guess", nil)} {
		for _, r := range routesOf(t) {
			code := problem.CodeOf(p.do(r.method, r.filled(), map[string]any{}, nil))
			if open[r.method+" "+r.path] {
				if code == problem.Unauthenticated || code == problem.Forbidden {
					t.Errorf("%s %s: %q", r.method, r.path, code)
				}
			} else if code != problem.Unauthenticated {
				t.Errorf("%s %s without proof: %q, want %s", r.method, r.path, code, problem.Unauthenticated)
			}
		}
		want(t, p.do("GET", "/metrics", nil, nil), problem.Unauthenticated)
		want(t, p.do("GET", "/v1/nothing", nil, nil), problem.NotFound)
	}
}

// TestOperatorsAreNoAgents: an operator's token does not speak for a machine.
func TestOperatorsAreNoAgents(t *testing.T) {
	s := newSite(t)
	for _, r := range routesOf(t) {
		if r.who == agent {
			want(t, s.operator().do(r.method, r.path, map[string]any{}, nil), problem.Unauthenticated)
		}
	}
}

func TestAgentsCertificateIsJudged(t *testing.T) {
	s := newSite(t)
	guest, id := s.enrol()
	guest.must("GET", "/v1/agent/desired", nil, nil)

	// An authority of the same name, elsewhere.
	foreign, err := pki.Open(t.TempDir(), s.now)
	if err != nil {
		t.Fatal(err)
	}
	key, csr := newKey(t)
	request, err := pki.ParseRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := foreign.IssueAgent(id, request)
	if err != nil {
		t.Fatal(err)
	}
	forged := s.party("", certificate(issued.PEM, key))
	want(t, forged.do("GET", "/v1/agent/desired", nil, nil), problem.CertificateForeign, "another authority", "enrol")

	own := s.party("", nil)
	own.http = s.asServer(t)
	want(t, own.do("GET", "/v1/agent/desired", nil, nil), problem.CertificateForeign)

	now := s.now()
	s.setClock(now.Add(-2 * time.Hour))
	want(t, guest.do("GET", "/v1/agent/desired", nil, nil), problem.ClockSkew, "set back")
	s.setClock(now.Add(pki.AgentLife + time.Minute))
	want(t, guest.do("GET", "/v1/agent/desired", nil, nil), problem.CertificateExpired, id.String())
	s.setClock(now)
	s.operator().must("DELETE", "/v1/machines/"+id.String(), nil, nil)
	want(t, guest.do("GET", "/v1/agent/desired", nil, nil), problem.CertificateRevoked, "removed")
	if len(s.disconnected) != 1 || s.disconnected[0] != id {
		t.Error("the relay was not told of the removed machine:", s.disconnected)
	}
}

func certificate(pemText []byte, key any) *tls.Certificate {
	c := &tls.Certificate{PrivateKey: key}
	c.Certificate = append(c.Certificate, decode(pemText))
	return c
}

// asServer is a client that shows a server's certificate of our own authority.
func (s *site) asServer(t *testing.T) *http.Client {
	t.Helper()
	cert, err := s.authority.NewServer(pki.RoleRelay).Certificate()
	if err != nil {
		t.Fatal(err)
	}
	return s.party("", cert).http
}

// TestDescriptionTellsWhoMayCall: the OpenAPI document and the table agree.
func TestDescriptionTellsWhoMayCall(t *testing.T) {
	s := newSite(t)
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string                `json:"operationId"`
			Security    []map[string][]string `json:"security"`
		} `json:"paths"`
	}
	s.party("", nil).must("GET", "/openapi.json", nil, &doc)
	names := map[string]bool{}
	for _, r := range routesOf(t) {
		op := doc.Paths[r.path][strings.ToLower(r.method)]
		if op.OperationID != r.name || names[r.name] {
			t.Errorf("%s %s is %q in the description, %q in the table, or named twice", r.method, r.path, op.OperationID, r.name)
		}
		names[r.name] = true
		got, _ := json.Marshal(op.Security)
		want := map[who]string{operator: `[{"operator":[]}]`, agent: `[{"agent":[]}]`, anybody: `[{}]`}[r.who]
		if string(got) != want {
			t.Errorf("%s %s: security %s, want %s", r.method, r.path, got, want)
		}
	}
}
