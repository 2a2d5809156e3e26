package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzArguments reads figures as operators write them. Limit: 256 times the input and
// 16 KiB: an error quotes what cannot be printed in four bytes each, and errors are wrapped. No figure is negative, and the vault's facts about a machine come back.
func FuzzArguments(f *testing.F) {
	for _, s := range []string{"", "10MiB", "1e300TiB", "-1", "NaN", "15d", "9999999999999999d", "-5d", "90m", "2026-11-23T18:04:05.5Z", "18:04", "mon,tue 08:00-18:00 10MiB", "all:2h,hourly:24h,daily:15d", `{"hostname":"web1","policy":{},"protected":[]}`} {
		f.Add(s)
	}
	now := time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		fuzztest.Bounded(t, 256*len(s)+16<<10, func() {
			_, _ = parseBytes(s)
			_, _ = parseSeconds(s)
			_, _ = parseMoment(s, now)
			_, _ = parseWindow(s)
			_ = applyKeep(&inventory.Retention{}, s)
		})
		if n, err := parseBytes(s); err == nil && n < 0 {
			t.Errorf("%q is %d bytes", s, n)
		}
		if n, err := parseSeconds(s); err == nil && n < 0 {
			t.Errorf("%q is %d seconds", s, n)
		}
		if w, err := parseWindow(s); err == nil && w.BytesPerSecond <= 0 {
			t.Errorf("%q is %+v", s, w)
		}
		if a, err := parseAbout(json.RawMessage(s)); err == nil {
			if _, err := json.Marshal(a); err != nil {
				t.Errorf("%q does not come back: %v", s, err)
			}
		}
	})
}

// answer answers every request alike.
type answer struct {
	status int
	body   []byte
}

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Body: io.NopCloser(bytes.NewReader(a.body)), Request: r, Header: http.Header{}}, nil
}

// FuzzAnswer lets anything answer the command line in the control plane's place. Limit:
// 256 times what came (maxReply at most) and 256 KiB.
func FuzzAnswer(f *testing.F) {
	f.Add(200, []byte(`{"items":[{"id":"000102030405060708090a0b0c0d0e0f","hostname":"web1"},null]}`))
	f.Add(404, []byte(`{"code":"not-found","detail":"x","remedy":"y"}`))
	f.Add(502, []byte(`<html>`))
	f.Fuzz(func(t *testing.T, status int, b []byte) {
		c := &client{server: "https://control", http: &http.Client{Transport: answer{status, b}}}
		fuzztest.Bounded(t, 256*len(b)+256<<10, func() {
			_, err := list[inventory.Machine](context.Background(), c, "/v1/machines", nil)
			if err == nil && status >= http.StatusBadRequest {
				t.Fatalf("status %d is no error", status)
			}
		})
	})
}
