package api

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

func TestMisspeltRequestsAreRefused(t *testing.T) {
	s := newSite(t)
	op := s.operator()
	want(t, op.do("POST", "/v1/tokens", map[string]any{"notte": "x"}, nil), problem.Invalid, "body.notte")
	want(t, op.do("GET", "/v1/events?machin=web1", nil, nil), problem.Invalid, "machin")
	want(t, op.do("GET", "/v1/events?limit=0", nil, nil), problem.Invalid)
	want(t, op.do("GET", "/v1/machines/web1", nil, nil), problem.MachineUnknown, "web1")
	want(t, op.do("POST", "/v1/machines/web1/protect", map[string]any{"disks": []string{}}, nil), problem.Invalid)
}

func TestWhatOperatorsChangeIsAudited(t *testing.T) {
	s := newSite(t)
	guest, _ := s.enrol()
	guest.must("POST", "/v1/agent/report", s.report("x"), nil)
	op := s.operator()
	op.must("POST", "/v1/machines/web1/protect", map[string]any{"disks": []string{"a"}}, nil)
	want(t, op.do("POST", "/v1/machines/web1/protect", map[string]any{"disks": []string{"a"}}, nil), problem.DiskProtected, "disk a", "web1")
	var log Items[inventory.Entry]
	op.must("GET", "/v1/audit", nil, &log)
	var got []string
	for _, e := range log.Items {
		got = append(got, e.Who+" "+e.Verb+" "+e.Target+": "+e.Result)
	}
	if s := strings.Join(got, "\n"); s != `operator admin protect /v1/machines/web1/protect: Conflict
operator admin protect /v1/machines/web1/protect: ok
operator admin create-token /v1/tokens: ok` {
		t.Error(s)
	}
}

func TestNobodyLearnsASecretTwice(t *testing.T) {
	s := newSite(t)
	token := s.newToken()
	resp, err := s.operatorGet("/v1/tokens")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(resp, strings.Split(token, "_")[1]) {
		t.Error("the list of tokens tells a secret")
	}
}

func (s *site) operatorGet(path string) (string, error) {
	req, err := http.NewRequest("GET", s.url+path, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+secret)
	resp, err := s.operator().http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestFailoverIsPassedOn(t *testing.T) {
	s := newSite(t)
	_, id := s.enrol()
	var f failover.Failover
	s.operator().must("POST", "/v1/machines/web1/failovers", map[string]string{"kind": "run", "point": "3.7"}, &f)
	if f.Kind != failover.Run || f.Machine != id || f.AskedFor != "3.7" {
		t.Errorf("%+v", f)
	}
	want(t, s.operator().do("POST", "/v1/machines/web1/failovers", map[string]string{"kind": "destroy"}, nil), problem.Invalid, "body.kind")
	s.operator().must("POST", "/v1/failovers/f1/cleanup", map[string]any{}, nil)
	if len(s.cleaned) != 1 || s.cleaned[0] != "f1" {
		t.Error(s.cleaned)
	}
	boot := map[string]any{"network": "isolated", "memory": 1 << 30}
	s.operator().must("POST", "/v1/machines/web1/failovers", map[string]any{"kind": "test", "boot": boot}, &f)
	if f.Kind != failover.TestBoot {
		t.Errorf("%+v", f)
	}
	boot["netwrok"] = "user"
	want(t, s.operator().do("POST", "/v1/machines/web1/failovers", map[string]any{"kind": "test", "boot": boot}, nil), problem.Invalid, "body.boot.netwrok")
	s.operator().must("POST", "/v1/failovers/f1/point", map[string]any{"point": "3.6", "force": true}, &f)
	if f.AskedFor != "3.6" {
		t.Errorf("%+v", f)
	}
	s.operator().must("POST", "/v1/failovers/f1/commit", nil, &f)
	if f.Status != inventory.JobCommitted {
		t.Errorf("%+v", f)
	}
}

func TestDrillIsPassedOn(t *testing.T) {
	s := newSite(t)
	_, id := s.enrol()
	var f failover.Failover
	s.operator().must("POST", "/v1/machines/web1/drills", nil, &f)
	if f.Kind != failover.Drill || f.Machine != id {
		t.Errorf("%+v", f)
	}
	var all Items[failover.Failover]
	s.operator().must("GET", "/v1/drills?machine=web1", nil, &all)
	if len(all.Items) != 1 || all.Items[0].Machine != id {
		t.Errorf("%+v", all)
	}
}

// TestScreenshotIsAPicture, and nobody's but operators'.
func TestScreenshotIsAPicture(t *testing.T) {
	s := newSite(t)
	shot, err := s.operatorGet("/v1/failovers/f1/screenshot")
	if err != nil || shot != "\x89PNG" {
		t.Errorf("%q, %v", shot, err)
	}
	guest, _ := s.enrol()
	want(t, guest.do("GET", "/v1/failovers/f1/screenshot", nil, nil), problem.Forbidden)
}

func TestMetricsAndPages(t *testing.T) {
	s := newSite(t)
	guest, id := s.enrol()
	guest.must("POST", "/v1/agent/report", s.report("x"), nil)
	text, err := s.operatorGet("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`understudy_machine_state{contact="live",hostname="web1",machine="` + id.String() + `",state="Unprotected"} 1`,
		`understudy_machine_protected_disks{hostname="web1",machine="` + id.String() + `"} 0`,
	} {
		if !strings.Contains(text, line) {
			t.Errorf("no %s in\n%s", line, text)
		}
	}
	for path, words := range map[string]string{"/docs": "openapi.json", "/openapi.yaml": "operationId: protect"} {
		if page, err := s.operatorGet(path); err != nil || !strings.Contains(page, words) {
			t.Errorf("%s: %v, without %q", path, err, words)
		}
	}
}

func TestProofsAreAskedForOnceOrAlways(t *testing.T) {
	s := newSite(t)
	guest, _ := s.enrol()
	report := s.report("x")
	guest.must("POST", "/v1/agent/report", report, nil)
	op := s.operator()
	want(t, op.do("POST", "/v1/machines/web1/verify", nil, nil), problem.DiskUnprotected, "web1")
	op.must("POST", "/v1/machines/web1/protect", map[string]any{"disks": []string{"a"}}, nil)
	var asked VerifyAsked
	op.must("POST", "/v1/machines/web1/verify", nil, &asked)
	op.must("PUT", "/v1/machines/web1/verify", map[string]int64{"every_seconds": 3600, "bytes_per_second": 5}, nil)
	want(t, op.do("PUT", "/v1/machines/web1/verify", map[string]int64{"every_seconds": -1}, nil), problem.Invalid)
	want(t, guest.do("POST", "/v1/machines/web1/verify", nil, nil), problem.Forbidden)
	var wish desired.State
	guest.must("GET", "/v1/agent/desired", nil, &wish)
	if asked.Verify != 1 || wish.Verify != (desired.Verify{Once: 1, Every: 3600, Rate: 5}) {
		t.Errorf("asked for %+v, the agent is told %+v", asked, wish.Verify)
	}
}
