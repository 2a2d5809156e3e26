package main

import (
	"bufio"
	"bytes"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/controlplane/push"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// terminal is a view on a terminal where somebody has typed that.
func terminal(typed string, hosts ...string) (*pushView, *bytes.Buffer) {
	var shown bytes.Buffer
	v := newPushView(&printer{w: &shown}, hosts, strings.NewReader(typed))
	v.live, v.in = true, bufio.NewReader(strings.NewReader(typed))
	return v, &shown
}

// TestPushViewIsALineAHost: as many lines as there are hosts, drawn over again.
func TestPushViewIsALineAHost(t *testing.T) {
	v, shown := terminal("", "web1", "longer-name")
	v.tell(push.Event{Host: "web1", Step: "copy", Detail: "50% of\x1b[2J 14 MiB " + strings.Repeat("x", 200)})
	v.tell(push.Event{Host: "longer-name", Step: "connect"})
	frames := strings.Split(shown.String(), "\x1b[2A\x1b[J")
	if len(frames) != 2 {
		t.Fatalf("%d frames: %q", len(frames), shown)
	}
	lines := strings.Split(strings.TrimSuffix(frames[1], "\n"), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "web1         copy") || !strings.HasPrefix(lines[1], "longer-name  connect") {
		t.Errorf("%q", lines)
	}
	for _, l := range lines {
		if len([]rune(l)) > lineWidth || strings.Contains(l, "\x1b") {
			t.Errorf("%q does not stay a line", l)
		}
	}
}

func TestPushViewAsks(t *testing.T) {
	v, shown := terminal("yes\nno\n\n", "web1")
	for i, want := range []bool{true, false, false} {
		if got, err := v.asker()(t.Context(), "web1", "ssh-ed25519", "SHA256:abc"); err != nil || got != want {
			t.Errorf("answer %d is %v, %v", i, got, err)
		}
	}
	if !strings.Contains(shown.String(), "SHA256:abc (ssh-ed25519)") {
		t.Errorf("%q", shown)
	}
	if _, err := v.asker()(t.Context(), "web1", "", ""); err == nil {
		t.Error("nobody answered, and it was taken for an answer")
	}
	if ask := newPushView(&printer{w: shown}, nil, strings.NewReader("yes\n")).asker(); ask != nil {
		t.Error("a pipe is asked")
	}
}

func TestPushViewTellsWhatToDo(t *testing.T) {
	v, shown := terminal("", "web1", "web2", "web3")
	err := v.end([]push.Result{
		{Host: "web1", Outcome: push.Unfit, Message: "not fit: clock", Findings: []push.Finding{{Check: "system", Answer: push.Yes, Detail: "Debian"}, {Check: "clock", Answer: push.No, Detail: "1h behind", Remedy: "set it"}}},
		{Host: "web2", Outcome: push.Failed, Message: "gone", Problem: problem.New(problem.Unavailable, "plug it in", "gone")},
		{Host: "web3", Outcome: push.Installed, Message: "installed"},
	}, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1h behind\n          what to do: set it", "web2: gone\n  what to do: plug it in"} {
		if !strings.Contains(shown.String(), want) {
			t.Errorf("%q is not in %s", want, shown)
		}
	}
	for _, not := range []string{"Debian", "web3"} {
		if strings.Contains(shown.String(), not) {
			t.Errorf("%q is in %s", not, shown)
		}
	}
}

func TestPushUsage(t *testing.T) {
	startPlane(t)
	t.Setenv("SSH_AUTH_SOCK", "")
	for line, want := range map[string]string{
		"push":                            "usage: understudy push HOST",
		"push web1":                       "--key",
		"push web1 --upgrade --uninstall": "not both",
		"push web1 --purge":               "--uninstall",
		"push web1 --uninstall --dry-run": "--dry-run",
		"push a b --password-file PASSWORD --host-key SHA256:x":  "HOST=SHA256",
		"push web1 --password-file PASSWORD --host-key MD5:x":    "SHA256",
		"push root@web1 --password-file PASSWORD":                "--user",
		"push web1 --key PASSWORD":                               "not a private key",
		"token create --command --control-plane https://plane/x": "HOST:PORT",
	} {
		password := t.TempDir() + "/password"
		writeFile(t, password, "x\n")
		out, code := cli(t, strings.Fields(strings.ReplaceAll(line, "PASSWORD", password))...)
		if code != exitUsage || !strings.Contains(out, want) {
			t.Errorf("understudy %s: exit code %d, want %d with %q:\n%s", line, code, exitUsage, want, out)
		}
	}
}
