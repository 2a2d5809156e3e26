package qemu

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"

	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzAnswer is what a qemu may say whose guest broke into it. Limit: 256 times the input
// and 64 KiB.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"QMP":{"version":{}}}{"return":{}}`))
	f.Add([]byte(`{"event":"RESET"} {"error":{"class":"x","desc":"no"}}`))
	f.Add([]byte(`{"return":null}[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzztest.Bounded(t, 256*len(b)+64<<10, func() {
			var status struct {
				Status string `json:"status"`
			}
			q := qmp{json.NewEncoder(io.Discard), json.NewDecoder(bytes.NewReader(b))}
			_ = q.do("query-status", nil, &status)
		})
	})
}

// FuzzScreen is a screen as such a qemu may draw it. Limit: 64 MiB for what it may claim,
// and 8 times the input.
func FuzzScreen(f *testing.F) {
	f.Add([]byte("P6\n2 1\n255\nabcdef"))
	f.Add([]byte("P6\n99999999 99999999\n255\n"))
	f.Add([]byte("P6\n-1 2\n255\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzztest.Bounded(t, 8*len(b)+maxScreen*3, func() {
			if screen, err := readPPM(bytes.NewReader(b)); err == nil && screen.Bounds().Empty() {
				t.Error("a screen without a pixel")
			}
		})
	})
}
