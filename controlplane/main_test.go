package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// cli runs a command line and returns what it printed and its exit code.
func cli(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	root := newRoot()
	var stdout bytes.Buffer
	root.SetOut(&stdout)
	root.SetErr(&stdout)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	if err != nil {
		stdout.WriteString(explain(err))
	}
	return stdout.String(), exitCode(t.Context(), err)
}

// startPlane runs a control plane on loopback for the time of the test.
func startPlane(t *testing.T) (data string) {
	t.Helper()
	data = t.TempDir()
	o := &serveOptions{data: data, apiListen: "127.0.0.1:0", relayListen: freeAddress(t), spoolLimit: 1 << 30}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- runServe(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error("serve:", err)
		}
	})
	t.Setenv("UNDERSTUDY_DATA", data)
	for range 200 {
		if _, code := cli(t, "machine", "list"); code == exitOK {
			return data
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatal("serve:", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatal("the control plane does not answer")
	return ""
}

// freeAddress is a loopback address whose port is free for TCP and UDP alike.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		u, err := net.ListenPacket("udp", addr)
		_ = l.Close()
		if err == nil {
			_ = u.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

func TestOperatorsVerbs(t *testing.T) {
	data := startPlane(t)
	for _, c := range []struct {
		line string
		code int
		want string // in the output
	}{
		{"token create", exitOK, "ust1_"},
		{"token create -o json", exitOK, `"token":"ust1_`},
		{"token list", exitOK, "open"},
		{"token revoke nonsense", exitNotFound, "token list"},
		{"token create --life 1s", exitUsage, "life_seconds"},
		{"machine list", exitOK, "HOSTNAME"},
		{"machine list --output json", exitOK, "[]\n"},
		{"machine list --output xml", exitUsage, "table or json"},
		{"machine show web1", exitNotFound, "what to do: see understudy machine list"},
		{"machine show", exitUsage, "usage: understudy machine show MACHINE"},
		{"machine frobnicate", exitUsage, "frobnicate"},
		{"frobnicate", exitUsage, "frobnicate"},
		{"machine list --frobnicate", exitUsage, "frobnicate"},
		{"disk list web1", exitNotFound, "web1"},
		{"disk serve web1", exitNotFound, "web1"},
		{"protect web1 /dev/sda", exitNotFound, "web1"},
		{"unprotect web1", exitUsage, "--all"},
		{"unprotect web1 /dev/sda --all", exitUsage, "--all"},
		{"resync web1", exitNotFound, "web1"},
		{"point list web1", exitNotFound, "web1"},
		{"point lock web1 latest", exitUsage, "name"},
		{"point lock web1 latest --name x", exitNotFound, "web1"},
		{"point unlock web1 latest", exitNotFound, "web1"},
		{"failover test web1 --format qcow2", exitUsage, "raw or vhd"},
		{"failover test web1", exitNotFound, "web1"},
		{"failover cleanup nonsense", exitNotFound, "nonsense"},
		{"failover list", exitOK, "DIRECTORY"},
		{"job show nonsense", exitNotFound, "nonsense"},
		{"policy list", exitOK, "all:2h,hourly:1d,daily:15d"},
		{"policy set gold --rpo 3s --keep all:4h,daily:30d", exitOK, "all:4h,hourly:1d,daily:30d"},
		{"policy set gold --keep weekly:4h", exitUsage, "hourly:AGE"},
		{"policy set gold --keep all:48h", exitUsage, "reach at least as far"},
		{"policy set gold --rpo 1ms", exitUsage, "1s to 24h"},
		{"policy show silver", exitNotFound, "silver"},
		{"event list -o json", exitOK, "[]\n"},
		{"audit list", exitOK, "operator admin"},
		{"vault check", exitOK, "everything is as it should be"},
		{"vault rebuild", exitFailed, "another understudy serve"},
		{"serve --data " + data, exitFailed, "another understudy serve"},
		{"serve --spool-limit lots", exitUsage, "--spool-limit"},
	} {
		out, code := cli(t, strings.Fields(c.line)...)
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("understudy %s: exit code %d, want %d, with %q:\n%s", c.line, code, c.code, c.want, out)
		}
	}
}

func TestOperatorsWithoutAccess(t *testing.T) {
	data := startPlane(t)
	wrong := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(wrong, []byte("uso1_wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "nothing")
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"wrong token": {[]string{"machine", "list", "--token-file", wrong}, exitDenied, "operator.token"},
		"no token":    {[]string{"machine", "list", "--token-file", other}, exitDenied, "cannot read"},
		"no CA":       {[]string{"machine", "list", "--ca", other}, exitDenied, "--ca"},
		"nobody":      {[]string{"machine", "list", "--server", "127.0.0.1:1"}, exitUnreachable, "cannot be reached"},
		"nonsense":    {[]string{"machine", "list", "--server", "http://x"}, exitUsage, "https://host:port"},
		"never ran":   {[]string{"machine", "list", "--data", other, "--token-file", filepath.Join(data, tokenName)}, exitUnreachable, "understudy serve"},
	} {
		out, code := cli(t, c.args...)
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%s: exit code %d, want %d, with %q:\n%s", name, code, c.code, c.want, out)
		}
	}
}

func TestServeStartsAgainWithWhatItKept(t *testing.T) {
	data := t.TempDir()
	var first string
	for i := range 2 {
		token, err := operatorToken(data)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = token
		} else if token != first {
			t.Error("another token after a restart")
		}
	}
	info, err := os.Stat(filepath.Join(data, tokenName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(data, tokenName), []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := operatorToken(data); err == nil || !strings.Contains(err.Error(), "too short") {
		t.Error(err)
	}
}

func TestEveryProblemHasAnExitCode(t *testing.T) {
	for _, c := range []problem.Code{problem.Invalid, problem.NotFound, problem.Ambiguous, problem.Unauthenticated, problem.TokenUsed, problem.CertificateExpired,
		problem.DiskProtected, problem.DiskGone, problem.NoPoint, problem.Unavailable, problem.Damaged, problem.Exists} {
		err := fmt.Errorf("wrapped: %w", problem.New(c, "do this", "that happened"))
		if code := exitCode(t.Context(), err); code == exitFailed || code == exitOK {
			t.Errorf("%s: exit code %d", c, code)
		}
		if text := explain(err); !strings.Contains(text, "that happened") || !strings.Contains(text, "what to do: do this") {
			t.Errorf("%s: %s", c, text)
		}
	}
	if code := exitCode(t.Context(), errors.New("x")); code != exitFailed {
		t.Error(code)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code := exitCode(ctx, fmt.Errorf("x: %w", context.Canceled)); code != exitInterrupted {
		t.Error(code)
	}
	for _, line := range strings.Split(exitCodesHelp, "\n")[1:] {
		var code int
		if _, err := fmt.Sscan(line, &code); err != nil {
			t.Errorf("%q documents no code", line)
		}
	}
}

func TestManualHasAPageForEachVerb(t *testing.T) {
	dir := t.TempDir()
	if out, code := cli(t, "docs", "man", dir); code != exitOK {
		t.Fatal(out)
	}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" {
			return
		}
		if _, err := os.Stat(filepath.Join(dir, strings.ReplaceAll(c.CommandPath(), " ", "-")+".1")); err != nil {
			t.Error(err)
		}
		if c.Short == "" {
			t.Errorf("%s has no description", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
	page, err := os.ReadFile(filepath.Join(dir, "understudy.1"))
	if err != nil || !bytes.Contains(page, []byte("130")) {
		t.Error("the exit codes are not in the manual", err)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, code := cli(t, "completion", shell); code != exitOK || !strings.Contains(out, "understudy") {
			t.Errorf("completion for %s: %d", shell, code)
		}
	}
}

func TestParseMoment(t *testing.T) {
	now := time.Date(2026, 11, 23, 18, 30, 0, 0, time.FixedZone("", 3600))
	for text, want := range map[string]string{
		"2026-11-22T10:00:00Z":         "2026-11-22T10:00:00Z",
		"2026-11-22T10:00:00.25+02:00": "2026-11-22T08:00:00.25Z",
		"2026-11-22 10:00:00":          "2026-11-22T09:00:00Z",
		"2026-11-22 10:00":             "2026-11-22T09:00:00Z",
		"14:03:20":                     "2026-11-23T13:03:20Z",
		"14:03:20.5":                   "2026-11-23T13:03:20.5Z",
		"14:03":                        "2026-11-23T13:03:00Z",
		"90s":                          "2026-11-23T17:28:30Z",
		"-2h":                          "2026-11-23T15:30:00Z",
		"latest":                       "latest",
		"3.1042":                       "3.1042",
		"before the upgrade":           "before the upgrade",
	} {
		if got := pointSpec(text, now); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}

func TestParseFiguresOfPolicies(t *testing.T) {
	for text, want := range map[string]int64{"10MiB": 10 << 20, "1.5GiB": 3 << 29, "10MB": 10_000_000, "512": 512, "0": 0} {
		if got, err := parseBytes(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "x", "-1MiB", "10 MiB", "MiB", "10MiBs"} {
		if n, err := parseBytes(bad); err == nil {
			t.Errorf("%q is %d bytes", bad, n)
		}
	}
	for text, want := range map[string]int64{"15d": 15 * 86400, "90m": 5400, "1h30m": 5400} {
		if got, err := parseSeconds(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	w, err := parseWindow("mon,fri 08:00-18:00 10MiB")
	if err != nil || fmt.Sprint(w) != fmt.Sprint(desired.Window{Days: []string{"mon", "fri"}, From: "08:00", To: "18:00", BytesPerSecond: 10 << 20}) {
		t.Error(w, err)
	}
	for _, bad := range []string{"", "08:00-18:00", "8-18 10MiB", "monday 08:00-18:00 1MiB", "08:00-18:00 0"} {
		if w, err := parseWindow(bad); err == nil {
			t.Errorf("%q is %v", bad, w)
		}
	}
}

func TestTerminalIsNotSteeredByAgents(t *testing.T) {
	var b bytes.Buffer
	p := &printer{w: &b}
	err := p.show(nil, func(t *table) { t.row("web1\x1b[2J\nfake row\ttab\x9b") })
	if err != nil || strings.ContainsAny(b.String()[:b.Len()-1], "\x1b\n\t\u009b") {
		t.Errorf("%q, %v", b.String(), err)
	}
}
