package api

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/understudy-dr/understudy/controlplane/push"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// TestStrangersMayFetchTheAgent: a machine that has not enrolled gets what it needs for
// that, whole, and can prove where it comes from by its token.
func TestStrangersMayFetchTheAgent(t *testing.T) {
	s := newSite(t)
	stranger := s.party("", nil)
	var got []byte
	stranger.must("GET", "/v1/install/ca.der", nil, &got)
	token, err := desired.ParseToken(s.newToken())
	if err != nil || sha256.Sum256(got) != token.Fingerprint {
		t.Errorf("the token does not tell this certificate: %v", err)
	}
	stranger.must("GET", "/v1/install/agent.sh", nil, &got)
	if string(got) != push.AgentScript {
		t.Errorf("another script: %q", got)
	}

	path := "/v1/install/agent/linux/" + runtime.GOARCH
	want(t, stranger.do("GET", path, nil, nil), problem.NotFound, "linux-"+runtime.GOARCH)
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(own)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.agents, "understudy-agent"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	stranger.must("GET", path, nil, &got)
	if !bytes.Equal(got, program) {
		t.Errorf("%d bytes came of %d", len(got), len(program))
	}
	for _, arch := range []string{"riscv64", "..", "amd64%2f..%2f..%2fetc"} {
		if err := stranger.do("GET", "/v1/install/agent/linux/"+arch, nil, nil); err == nil {
			t.Errorf("there is an agent for %s", arch)
		}
	}
}
