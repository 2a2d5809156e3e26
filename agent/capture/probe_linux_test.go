package capture

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// TestProbe: this host, where the tests capture, can capture.
func TestProbe(t *testing.T) {
	d := newLoop(t, memory(t), 16<<20)
	r := Probe(t.Context())
	if r.Answer != Yes {
		t.Errorf("the probe says %s", r.Answer)
	}
	found := false
	for _, disk := range r.Disks {
		found = found || disk.ID == d.ID && disk.Answer == Yes
	}
	if !found {
		t.Errorf("the probe does not know %s", d.Path)
	}
	var text bytes.Buffer
	must(t, r.WriteText(&text))
	t.Logf("\n%s", text.String())
	raw, err := json.Marshal(r)
	must(t, err)
	var back Report
	must(t, json.Unmarshal(raw, &back))
	if len(back.Checks) != len(r.Checks) || len(back.Disks) != len(r.Disks) {
		t.Errorf("as JSON: %s", raw)
	}
}

func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Answer
	}{
		{nil, Yes},
		{fmt.Errorf("no such thing: %w", ErrUnsupported), No},
		{ebpf.ErrNotSupported, No},
		{errors.New("permission denied"), Unknown},
	} {
		got := verdict("feature", c.err, "found", "remedy")
		if got.Answer != c.want {
			t.Errorf("%v is a %s, want %s", c.err, got.Answer, c.want)
		}
		if c.err != nil && (got.Remedy == "" || !strings.Contains(got.Detail, c.err.Error())) {
			t.Errorf("%v: %+v", c.err, got)
		}
	}
	if sumUp([]Check{{Answer: Unknown}, {Answer: No}, {Answer: Yes}}) != No || sumUp([]Check{{Answer: Unknown}, {Answer: Yes}}) != Unknown {
		t.Error("answers do not sum up")
	}
}
