//go:build testbed

package testbed

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// agentVerb runs a verb of the agent's command and returns what it printed.
func (r *rig) agentVerb(args ...string) string {
	r.t.Helper()
	out, err := exec.CommandContext(r.t.Context(), filepath.Join(binaries(r.t), "understudy-agent"), args...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("understudy-agent %v: %v: %s", args, err, out)
	}
	return string(out)
}

// TestAgentVerbs: what an engineer asks on the protected machine itself.
func TestAgentVerbs(t *testing.T) {
	r := protected(t, setup{})
	var probe struct {
		Answer string `json:"answer"`
	}
	r.must(json.Unmarshal([]byte(r.agentVerb("probe", "--output", "json")), &probe))
	if probe.Answer != "yes" {
		t.Errorf("the probe answers %q on a machine that is protected", probe.Answer)
	}
	if out := r.agentVerb("disks"); !strings.Contains(out, r.disks[0].Stable) {
		t.Errorf("the list of disks lacks %s:\n%s", r.disks[0].Stable, out)
	}

	r.site.Serve.Kill() // so that something waits in the journal
	r.live(2 * time.Second)
	lines := 0
	for line := range strings.Lines(r.agentVerb("journal", filepath.Join(r.RunDir(), "agent", "journal.hrl"))) {
		if lines++; !json.Valid(bytes.TrimSpace([]byte(line))) {
			t.Fatalf("not JSON: %s", line)
		}
	}
	if lines < 5 {
		t.Errorf("only %d lines about a journal with seconds of frames", lines)
	}
	r.must(r.site.Start(t.Context()))
	r.verifyNow()
}

// TestMetrics: both binaries show what an alert needs.
func TestMetrics(t *testing.T) {
	addr, err := lab.FreeAddr(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := protected(t, setup{agent: []string{"--metrics-listen", addr}})
	r.live(2 * time.Second)
	r.reported()
	agent, err := lab.Metrics(t.Context(), "http://"+addr+"/metrics", "")
	r.must(err)
	for _, name := range []string{
		"understudy_agent_captured_bytes_total", "understudy_agent_churn_bytes_per_second", "understudy_agent_dirty_bytes",
		"understudy_agent_journal_memory_bytes", "understudy_agent_journal_spill_bytes", `understudy_agent_resyncs_total{reason="initial"}`,
	} {
		if !strings.Contains(agent, "\n"+name) {
			t.Errorf("the agent does not show %s", name)
		}
	}
	control, err := r.site.Metrics(t.Context())
	r.must(err)
	for _, name := range []string{
		"understudy_machine_rpo_seconds", "understudy_machine_spool_bytes", "understudy_relay_spool_disk_bytes", "understudy_vault_stored_bytes_total",
	} {
		if !strings.Contains(control, "\n"+name) {
			t.Errorf("the control plane does not show %s", name)
		}
	}
}
