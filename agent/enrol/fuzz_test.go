package enrol

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// A certificate of some hundred bytes costs the standard library some ten KiB.
const perByte, base = 256, 256 << 10

// FuzzIdentity opens whatever lies in the identity's files. Limit: 256 times their
// length and 256 KiB. What opens has a key, a certificate and an authority.
func FuzzIdentity(f *testing.F) {
	key := []byte("-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n-----END PRIVATE KEY-----\n")
	f.Add([]byte(`{"machine":"000102030405060708090a0b0c0d0e0f","server":"https://x:443"}`), key)
	f.Add([]byte(`{"machine":null}`), []byte("-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n"))
	where, credentials := written(f)
	f.Add(where, credentials)
	f.Add(where, credentials[:len(credentials)/2])
	f.Add([]byte(`{"machine":null,"server":""}`), credentials)
	dir := f.TempDir()
	pemPath, placePath, _ := paths(dir)
	f.Fuzz(func(t *testing.T, place, pem []byte) {
		if err := os.WriteFile(placePath, place, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(pemPath, pem, 0o600); err != nil {
			t.Fatal(err)
		}
		fuzztest.Bounded(t, perByte*(len(place)+len(pem))+base, func() {
			id, err := Load(dir, time.Now)
			if err == nil && (id.Machine.IsZero() || id.NotAfter().IsZero() || id.Roots() == nil) {
				t.Fatalf("half an identity was loaded: machine %s until %s", id.Machine, id.NotAfter())
			}
			_, _ = parseKey(pem)
		})
	})
}

// written are the identity's files as Enrol writes them.
func written(f *testing.F) (where, credentials []byte) {
	p := newPlane(f)
	o := p.options()
	if _, err := Enrol(f.Context(), o); err != nil {
		f.Fatal(err)
	}
	pem, place, _ := paths(o.Dir)
	where, err := os.ReadFile(place)
	if err != nil {
		f.Fatal(err)
	}
	if credentials, err = os.ReadFile(pem); err != nil {
		f.Fatal(err)
	}
	return where, credentials
}

// answer answers every request alike.
type answer struct {
	status int
	body   []byte
}

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Body: io.NopCloser(bytes.NewReader(a.body)), Request: r, Header: http.Header{}}, nil
}

// FuzzAnswer lets anything answer in the control plane's place, to each of the agent's
// questions. Limit: maxReply is read at most, and decoded within 256 times that came.
func FuzzAnswer(f *testing.F) {
	f.Add(200, []byte(`{"version":1,"machine":"01000000000000000000000000000000","generation":7,"relays":[":9443","x",""]}`))
	f.Add(403, []byte(`{"code":"revoked","detail":"x","remedy":"y"}`))
	f.Add(500, []byte(`<html>`))
	f.Add(200, []byte(`{"machine":"01000000000000000000000000000000","certificate":"x","ca":"y"}`))
	id := &Identity{Machine: block.MachineID{1}, Server: "https://control:443", dir: f.TempDir(), now: time.Now}
	f.Fuzz(func(t *testing.T, code int, b []byte) {
		c := &Client{id: id, api: &client{server: id.Server, http: &http.Client{Transport: answer{code, b}}}}
		fuzztest.Bounded(t, perByte*len(b)+4*base, func() {
			if s, err := c.Desired(context.Background(), 0); err == nil && s.Machine != id.Machine {
				t.Fatalf("another machine's wishes were taken: %+v", s)
			}
			_, _ = c.Report(context.Background(), desired.Report{})
			if c.Renew(context.Background()) == nil {
				t.Fatal("credentials that nobody signed for our key were taken")
			}
		})
	})
}
