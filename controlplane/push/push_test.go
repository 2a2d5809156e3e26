package push

import (
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

func TestHosts(t *testing.T) {
	targets, err := parseHosts([]string{"web1", "web1:2222", "::1", "[fe80::1]:22"}, Options{Port: 22})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"web1:22", "web1:2222", "[::1]:22", "[fe80::1]:22"} {
		if targets[i].addr != want {
			t.Errorf("%s is at %s, want %s", targets[i].name, targets[i].addr, want)
		}
	}
	for _, bad := range [][]string{{""}, {"root@web1"}, {"web1:0"}, {"web1:x"}, {"web 1"}, {"web1", "web1:22"}} {
		if _, err := parseHosts(bad, Options{Port: 22}); problem.CodeOf(err) != problem.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestWhereMachinesFindTheControlPlane(t *testing.T) {
	for server, want := range map[string][2]string{
		"":                {"192.0.2.7:8443", "192.0.2.7:9443"},
		"plane":           {"plane:8443", "plane:9443"},
		"plane:443":       {"plane:443", "plane:9443"},
		"[2001:db8::1]:1": {"[2001:db8::1]:1", "[2001:db8::1]:9443"},
	} {
		p := &pusher{Options: Options{Server: server, APIPort: "8443", Relays: []string{":9443", "relay:1"}}}
		api, relays := p.server(&target{local: "192.0.2.7"})
		if api != want[0] || relays[0] != want[1] || relays[1] != "relay:1" {
			t.Errorf("%q gives %s and %q, want %q", server, api, relays, want)
		}
	}
}

// TestQuote: what is quoted is one word to a shell, whatever is in it.
func TestQuote(t *testing.T) {
	for _, s := range []string{"", "a b", `it's`, `$HOME "x" \ ;&|`, "a\nb", "'''"} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+quote(s)).Output()
		if err != nil || string(out) != s {
			t.Errorf("%q came as %q, %v", s, out, err)
		}
	}
}

// TestAgents: the program's header decides, not where it lies.
func TestAgents(t *testing.T) {
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(own)
	if err != nil {
		t.Fatal(err)
	}
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	dir := t.TempDir()
	put := func(name string, content []byte) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	a := Agents{Dirs: []string{filepath.Join(dir, "nothing"), dir}}
	find := func(arch, want string) {
		t.Helper()
		got, err := a.Find(arch)
		if want == "" {
			if problem.CodeOf(err) != problem.NotFound || !strings.Contains(err.Error(), "linux-"+arch) {
				t.Errorf("%s: %+v, %v", arch, got, err)
			}
			return
		}
		if err != nil || got.Path != filepath.Join(dir, want) || got.Size != int64(len(program)) || len(got.Sum) != 64 {
			t.Errorf("%s: %+v, %v", arch, got, err)
		}
	}
	find(runtime.GOARCH, "")
	put("understudy-agent", []byte("#!/bin/sh\n"))
	find(runtime.GOARCH, "")
	put("understudy-agent", program)
	find(runtime.GOARCH, "understudy-agent")
	find(other, "")
	put("linux-"+other+"/understudy-agent", program) // in the wrong place
	find(other, "")
	put("linux-"+runtime.GOARCH+"/understudy-agent", program)
	find(runtime.GOARCH, "linux-"+runtime.GOARCH+"/understudy-agent")
	if _, err := a.Find("../../etc"); problem.CodeOf(err) != problem.NotFound {
		t.Error(err)
	}
}

func TestSecretsOfOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte("one\r\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Password(path); err != nil || got != "one" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := KeyLogin(path); problem.CodeOf(err) != problem.Invalid {
		t.Errorf("a password taken for a key: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Password(path); problem.CodeOf(err) != problem.Invalid || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others read: %v", err)
	}
	locked := filepath.Join(t.TempDir(), "key")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "a passphrase", "-f", locked).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := KeyLogin(locked); problem.CodeOf(err) != problem.Invalid || !strings.Contains(err.Error(), "ssh-add") {
		t.Errorf("a key with a passphrase: %v", err)
	}
}

func TestCommandTakesNoOtherCommand(t *testing.T) {
	token := desired.NewToken(sha256.Sum256(nil))
	if _, err := Command("plane", "443", token); err != nil {
		t.Error(err)
	}
	for _, host := range []string{"", "a b", "a'b", "$(id)", "a;b", "a\nb"} {
		if c, err := Command(host, "443", token); err == nil {
			t.Errorf("%q: %s", host, c)
		}
	}
}
