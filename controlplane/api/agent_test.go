package api

import (
	"bytes"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

func decode(text []byte) []byte {
	b, _ := pem.Decode(text)
	return b.Bytes
}

func TestEnrolAndItsRefusals(t *testing.T) {
	s := newSite(t)
	_, csr := newKey(t)
	enrol := func(r desired.EnrolRequest) error { return s.party("", nil).do("POST", "/v1/agent/enrol", r, nil) }

	r := s.request("ust1_nonsense", csr)
	want(t, enrol(r), problem.TokenWrong, "not an enrolment token")
	r = s.request(desired.NewToken(s.authority.Fingerprint()).String(), csr)
	want(t, enrol(r), problem.TokenWrong, "has not issued")

	token := s.newToken()
	r = s.request(token, csr)
	r.Version = 2
	want(t, enrol(r), problem.VersionUnknown, "version 2", "upgrade the control plane")
	r = s.request(token, csr)
	r.Time = s.now().Add(-time.Hour)
	want(t, enrol(r), problem.ClockSkew, "1h0m0s behind")
	r.Time = s.now().Add(25 * time.Hour)
	want(t, enrol(r), problem.ClockSkew, "25h0m0s ahead of")
	want(t, enrol(s.request(token, "junk")), problem.Invalid)
	r = s.request(token, csr)
	r.Host.Hostname = ""
	want(t, enrol(r), problem.Invalid, "hostname")

	// None of these has spent the token.
	if err := enrol(s.request(token, csr)); err != nil {
		t.Fatal(err)
	}
	_, another := newKey(t)
	want(t, enrol(s.request(token, another)), problem.TokenUsed)
	late := s.newToken()
	s.setClock(s.now().Add(inventory.DefaultTokenLife + time.Minute))
	want(t, enrol(s.request(late, another)), problem.TokenExpired)
}

func TestRenewKeepsTheIdentity(t *testing.T) {
	s := newSite(t)
	guest, id := s.enrol()
	key, csr := newKey(t)
	var got desired.Credentials
	guest.must("POST", "/v1/agent/renew", desired.RenewRequest{Version: desired.Version, CSR: csr}, &got)
	if got.Machine != id {
		t.Fatal(got.Machine)
	}
	s.party("", certificate([]byte(got.Certificate), key)).must("GET", "/v1/agent/desired", nil, nil)
	guest.must("GET", "/v1/agent/desired", nil, nil) // the old one lives on: the answer may have been lost
}

func TestDesiredAndReport(t *testing.T) {
	s := newSite(t)
	guest, id := s.enrol()
	guest.must("POST", "/v1/agent/report", s.report("x"), nil)
	s.operator().must("POST", "/v1/machines/web1/protect", map[string]any{"disks": []string{"/dev/a"}}, nil)
	var state desired.State
	guest.must("GET", "/v1/agent/desired", nil, &state)
	if state.Machine != id || len(state.Disks) != 1 || len(state.Relays) != 1 || state.ReportSeconds == 0 {
		t.Fatalf("%+v", state)
	}
	// It waits for a change, and gets it.
	changed := make(chan error, 1)
	var next desired.State
	go func() {
		changed <- guest.do("GET", "/v1/agent/desired?wait=20&after="+itoa(state.Generation), nil, &next)
	}()
	s.operator().must("POST", "/v1/machines/web1/resync", nil, nil)
	if err := <-changed; err != nil || next.Resync != 1 {
		t.Fatal(next, err)
	}
	var m Machine
	s.operator().must("GET", "/v1/machines/"+id.String()[:12], nil, &m)
	if m.Hostname != "web1" || m.Status.State != inventory.Enabling || m.Status.Contact != inventory.Live || m.Resync != 1 {
		t.Fatalf("%+v", m)
	}
}

func itoa(n uint64) string { return string(rune('0' + n)) }

func TestReportOfANewerAgentIsTaken(t *testing.T) {
	s := newSite(t)
	guest, _ := s.enrol()
	guest.must("POST", "/v1/agent/report", []byte(`{"version":1,"instance":"x","time":"2026-11-23T18:00:00Z","host":{"hostname":"web1","from_the_future":1},"more":{}}`), nil)
	want(t, guest.do("POST", "/v1/agent/report", []byte(`{"version":2,"instance":"x","host":{"hostname":"web1"}}`), nil), problem.VersionUnknown)
	for _, junk := range []string{"", "{", "[]", `{"version":"one"}`, `{"version":1,"disks":[{"id":"zz"}]}`, "\x00\xff"} {
		want(t, guest.do("POST", "/v1/agent/report", []byte(junk), nil), problem.Invalid)
	}
}

func TestSecondAgentWithTheSameIdentity(t *testing.T) {
	s := newSite(t)
	guest, _ := s.enrol()
	report := func(instance string) error { return guest.do("POST", "/v1/agent/report", s.report(instance), nil) }
	for i, step := range []struct {
		instance string
		code     problem.Code
	}{{"original", ""}, {"clone", ""}, {"original", problem.IdentityConflict}, {"original", ""}, {"clone", problem.IdentityConflict}, {"original", ""}} {
		if err := report(step.instance); problem.CodeOf(err) != step.code {
			t.Fatalf("step %d, %s: %v, want %q", i, step.instance, err, step.code)
		}
		s.setClock(s.now().Add(5 * time.Second))
	}
	var events Items[inventory.Event]
	s.operator().must("GET", "/v1/events?type=identity-conflict", nil, &events)
	if len(events.Items) == 0 {
		t.Error("the operator was not told")
	}
}

func TestOversizedBodiesAreRefused(t *testing.T) {
	s := newSite(t)
	guest, _ := s.enrol()
	large := []byte(`{"x":"` + strings.Repeat("x", 4<<20) + `"}`)
	// Just beyond the limit: of a body far beyond it the server reads no more than the
	// limit and hangs up, and whether the client sees the answer before the reset is a
	// race that neither side can win for sure.
	beyond := large[:desired.MaxReportBytes+10]
	want(t, guest.do("POST", "/v1/agent/report", beyond, nil), problem.TooLarge)
	want(t, s.party("", nil).do("POST", "/v1/agent/enrol", beyond, nil), problem.TooLarge)
	want(t, s.operator().do("POST", "/v1/tokens", large[:maxOperatorBody+10], nil), problem.TooLarge)
	req, err := http.NewRequest("GET", s.url+"/v1/system/health", bytes.NewReader(large))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Large", strings.Repeat("x", 2*maxHeaderBytes))
	resp, err := s.party("", nil).http.Do(req)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("oversized headers: status %d", resp.StatusCode)
		}
	}
}

// TestAReportWithFindingsIsTold: and no other.
func TestAReportWithFindingsIsTold(t *testing.T) {
	s := newSite(t)
	guest, _ := s.enrol()
	r := s.report("x")
	guest.must("POST", "/v1/agent/report", r, nil)
	if s.told != 0 {
		t.Fatal("told without findings")
	}
	r.Protection = &desired.Protection{Verify: &desired.VerifyState{Findings: []desired.Finding{{
		At: block.Position{Epoch: 1, Seq: 2}, Cause: desired.FoundDifferent, Extents: []block.DiskExtent{{Disk: block.DiskID{1}, Extent: block.Extent{Len: 4096}}},
	}}}}
	guest.must("POST", "/v1/agent/report", r, nil)
	if s.told != 1 {
		t.Errorf("told %d times", s.told)
	}
}
