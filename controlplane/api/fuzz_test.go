package api

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzBody sends any body, query and name of a resource to each route, as an operator
// and as an agent. Limit: 1024 times what is sent (two letters can be an element of a
// list, and go through a schema, a database and an answer) and 4 MiB. Whatever was
// sent, it is not our failure, and all lists can still be read.
func FuzzBody(f *testing.F) {
	s := newSite(f)
	routes := (&server{}).routes()
	machine, id := s.enrol()
	chain := machine.http.Transport.(*http.Transport).TLSClientConfig.Certificates[0].Certificate
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil {
		f.Fatal(err)
	}
	report, err := json.Marshal(s.report("a"))
	if err != nil {
		f.Fatal(err)
	}
	for i, r := range routes {
		f.Add(byte(i), id.String(), "", report, r.who == agent)
	}
	for i, r := range routes {
		switch r.name {
		case "list-points":
			f.Add(byte(i), "web1", "from=2026-11-23T18:00:00Z&to=x&limit=-1", []byte(nil), false)
		case "list-events", "list-jobs", "list-audit":
			f.Add(byte(i), "", "limit=99999999999999999999&after=-1&machine=%00", []byte(nil), false)
		case "desired":
			f.Add(byte(i), "", "after=18446744073709551615&wait=-1", []byte(nil), true)
		case "set-policy":
			f.Add(byte(i), "default", "", []byte(`{"rpo_target_ms":15000,"retention":{"all_seconds":9223372036854775807,"hourly_seconds":0,"daily_seconds":0},"throttle":[{"from":"x","to":"","bytes_per_second":-1}]}`), false)
		case "protect":
			f.Add(byte(i), id.String(), "", []byte(`{"disks":["a",""],"policy":"none"}`), false)
		case "report":
			f.Add(byte(i), "", "", []byte(strings.Replace(string(report), `"disks":[`, `"protection":{"disks":[{"id":null}]},"disks":[`, 1)), true)
		case "enrol":
			b, _ := json.Marshal(desired.EnrolRequest{Version: 1, Token: "ust1__", CSR: "x"})
			f.Add(byte(i), "", "", b, false)
		}
	}
	send := func(method, path, query string, body []byte, asAgent bool) *httptest.ResponseRecorder {
		req := httptest.NewRequest(method, "https://control/", bytes.NewReader(body))
		req.URL = &url.URL{Scheme: "https", Host: "control", Path: path, RawQuery: query}
		req.Header.Set("Content-Type", "application/json")
		if asAgent {
			req.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
		} else {
			req.Header.Set("Authorization", "Bearer "+secret)
		}
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, req)
		return w
	}
	f.Fuzz(func(t *testing.T, n byte, name, query string, body []byte, asAgent bool) {
		r := routes[int(n)%len(routes)]
		if r.name == "remove-machine" || strings.Contains(query, "wait") { // the next one needs it; nobody waits
			return
		}
		path := r.path
		if at := strings.IndexByte(path, '{'); at >= 0 {
			path = path[:at] + name + path[at+strings.IndexByte(path[at:], '}')+1:]
			if at := strings.IndexByte(path, '{'); at >= 0 {
				path = path[:at] + name
			}
		}
		fuzztest.Bounded(t, 1024*(len(name)+len(query)+len(body))+4<<20, func() {
			if w := send(r.method, path, query, body, asAgent); w.Code >= http.StatusInternalServerError {
				t.Fatalf("%s %s: %d %s", r.method, path, w.Code, w.Body)
			}
		})
		for _, list := range []string{"/v1/machines", "/v1/machines/" + id.String(), "/v1/machines/" + id.String() + "/disks", "/v1/policies", "/v1/tokens", "/v1/events", "/v1/jobs"} {
			if w := send(http.MethodGet, list, "", nil, false); w.Code != http.StatusOK {
				t.Fatalf("after %s %s the list %s cannot be read: %d %s", r.method, path, list, w.Code, w.Body)
			}
		}
	})
}
