package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/push"
	"github.com/understudy-dr/understudy/controlplane/push/pushtest"
)

// pushed is a push to targets by an operator's command line.
type pushed struct {
	t       *testing.T
	results map[string]push.Result
	steps   []push.Event
	text    string
	code    int
}

// agentDir holds the agent's program, built from this source.
var agentDir = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "push-agent-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X github.com/understudy-dr/understudy/pkg/obs.Version=7.0.0", "-o", dir, "../agent")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", &exec.Error{Name: string(out), Err: err}
	}
	return dir, os.Rename(filepath.Join(dir, "agent"), filepath.Join(dir, "understudy-agent"))
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := agentDir(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

func pushTo(t *testing.T, args ...string) *pushed {
	t.Helper()
	dir, err := agentDir()
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"push", "--agents", dir, "-o", "json"}, args...)
	if !slices.Contains(args, "--known-hosts") {
		args = append(args, "--known-hosts", filepath.Join(t.TempDir(), "known_hosts"), "--accept-new-host-key")
	}
	p := &pushed{t: t, results: map[string]push.Result{}}
	p.text, p.code = cli(t, args...)
	for line := range strings.Lines(p.text) {
		var r push.Result
		if json.Unmarshal([]byte(line), &r) == nil && r.Outcome != "" {
			p.results[r.Host] = r
			continue
		}
		var e push.Event
		if json.Unmarshal([]byte(line), &e) == nil && e.Step != "" {
			p.steps = append(p.steps, e)
		}
	}
	return p
}

// want looks at the outcome of a host and at what it says.
func (p *pushed) want(host string, outcome push.Outcome, code int, words ...string) push.Result {
	p.t.Helper()
	r := p.results[host]
	if r.Outcome != outcome || p.code != code {
		p.t.Fatalf("%s: %q with exit code %d, want %q with %d:\n%s", host, r.Outcome, p.code, outcome, code, p.text)
	}
	said := r.Message
	if r.Problem != nil {
		said += "\n" + r.Problem.Error()
	}
	for _, w := range words {
		if !strings.Contains(said, w) {
			p.t.Errorf("%s says %q, not %q", host, said, w)
		}
	}
	return r
}

// finding is what was found about one thing.
func (p *pushed) finding(host, check string) push.Finding {
	p.t.Helper()
	for _, f := range p.results[host].Findings {
		if strings.HasPrefix(f.Check, check) {
			return f
		}
	}
	p.t.Errorf("%s: nothing was found about %s:\n%s", host, check, p.text)
	return push.Finding{}
}

func (p *pushed) no(host, check string, words ...string) {
	p.t.Helper()
	f := p.finding(host, check)
	if f.Answer != push.No || f.Remedy == "" {
		p.t.Errorf("%s: %+v, want a no with a remedy", host, f)
	}
	for _, w := range words {
		if !strings.Contains(f.Detail+"\n"+f.Remedy, w) {
			p.t.Errorf("%s: %+v does not say %q", host, f, w)
		}
	}
}

// unchanged fails if the target has other files than before.
func unchanged(t *testing.T, g *pushtest.Target, before []string) {
	t.Helper()
	after := g.Files()
	for _, f := range after {
		if !slices.Contains(before, f) {
			t.Errorf("the target has %s now", f)
		}
	}
	for _, f := range before {
		if !slices.Contains(after, f) {
			t.Errorf("the target has no %s any more", f)
		}
	}
}

// TestPushDryRun: each way to log in and to become root gives a machine that is fit, and
// leaves nothing there.
func TestPushDryRun(t *testing.T) {
	startPlane(t)
	g := pushtest.New(t, pushtest.Options{})
	before := g.Files()
	for name, login := range map[string][]string{
		"root by key":                    {"--key", g.Key},
		"root by password":               {"--password-file", g.Password},
		"sudo without a password":        {"--key", g.Key, "--user", pushtest.Free, "--sudo"},
		"sudo with the login's password": {"--password-file", g.Password, "--user", pushtest.Asker, "--sudo"},
	} {
		t.Run(name, func(t *testing.T) {
			p := pushTo(t, append(login, g.Addr, "--dry-run")...)
			p.want(g.Addr, push.Fit, exitOK)
			for _, check := range []string{"system", "architecture", "service manager", "clock", "root", "capture", "room for the journal's disk stage", "way to "} {
				if f := p.finding(g.Addr, check); f.Answer != push.Yes {
					t.Errorf("%+v", f)
				}
			}
			unchanged(t, g, before)
		})
	}
}

// TestPushTellsAllThatIsInTheWay: a machine with several things wrong hears of each, with
// what to do.
func TestPushTellsAllThatIsInTheWay(t *testing.T) {
	startPlane(t)
	g := pushtest.New(t, pushtest.Options{Journal: "8M"})
	before := g.Files()
	// A date that lies is the nearest thing to a clock that is off: namespaces have no real one.
	g.In(`printf '#!/bin/sh\necho $(($(/usr/bin/date +%%s) - 3600))\n' >/usr/local/bin/date; chmod 755 /usr/local/bin/date; rmdir /run/systemd/system`)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	p := pushTo(t, "--key", g.Key, g.Addr, "--control-plane", closed.Addr().String(), "--protect", "/dev/nosuchdisk")
	p.want(g.Addr, push.Unfit, exitUnfit)
	p.no(g.Addr, "clock", "behind the control plane's", "chrony")
	p.no(g.Addr, "service manager", "systemd")
	p.no(g.Addr, "way to "+closed.Addr().String(), "nothing listens")
	p.no(g.Addr, "room for the journal's disk stage", "free some")
	p.no(g.Addr, "disk /dev/nosuchdisk", "--protect")
	g.In("rm /usr/local/bin/date; mkdir -p /run/systemd/system")
	unchanged(t, g, before)
}

// TestPushWithoutRoot: who is not root, and cannot be, hears why.
func TestPushWithoutRoot(t *testing.T) {
	startPlane(t)
	g := pushtest.New(t, pushtest.Options{})
	for user, c := range map[string]struct {
		args []string
		want string
	}{
		pushtest.Guest: {[]string{"--sudo"}, "NOPASSWD"},
		pushtest.Tied:  {[]string{"--sudo"}, "!requiretty"},
		pushtest.Asker: {[]string{"--sudo"}, "--password-file"},
		pushtest.Free:  {nil, "--sudo"},
	} {
		p := pushTo(t, append(c.args, "--key", g.Key, "--user", user, g.Addr, "--dry-run")...)
		p.want(g.Addr, push.Unfit, exitUnfit, "root")
		p.no(g.Addr, "root", c.want)
		if f := p.finding(g.Addr, "way to "); f.Answer != push.Yes { // what needs no root is looked at all the same
			t.Errorf("%+v", f)
		}
	}
}

func TestPushWithoutRoomToCopy(t *testing.T) {
	startPlane(t)
	g := pushtest.New(t, pushtest.Options{Temp: "4M"})
	before := g.Files()
	p := pushTo(t, "--key", g.Key, g.Addr)
	p.want(g.Addr, push.Unfit, exitUnfit)
	p.no(g.Addr, "temporary directory", "/tmp has 3 MiB free", "/var/tmp", "make room")
	unchanged(t, g, before)
	g.In("mount -o remount,size=256M,noexec /tmp")
	p = pushTo(t, "--key", g.Key, g.Addr)
	p.no(g.Addr, "temporary directory", "noexec")
	g.In("mount -o remount,size=256M /var/tmp")
	pushTo(t, "--key", g.Key, g.Addr, "--dry-run").want(g.Addr, push.Fit, exitOK)
	unchanged(t, g, before)
}

func TestPushLetsNobodyInBetween(t *testing.T) {
	startPlane(t)
	g := pushtest.New(t, pushtest.Options{})
	known := filepath.Join(t.TempDir(), "keys", "known_hosts")
	do := func(args ...string) *pushed {
		return pushTo(t, append(args, "--known-hosts", known, "--key", g.Key, g.Addr, "--dry-run")...)
	}
	first := g.Fingerprint()
	do().want(g.Addr, push.Failed, exitPushFailed, first, "--host-key "+g.Addr+"="+first, "--accept-new-host-key")
	if _, err := os.Stat(known); err == nil {
		t.Error("a key that nobody accepted was kept")
	}
	do("--host-key", "SHA256:ungheuer").want(g.Addr, push.Failed, exitPushFailed, first, "ungheuer", "console")
	do("--host-key", first).want(g.Addr, push.Fit, exitOK)
	do().want(g.Addr, push.Fit, exitOK) // it is known now
	g.Rekey()
	for _, args := range [][]string{nil, {"--accept-new-host-key"}, {"--host-key", g.Fingerprint()}} {
		do(args...).want(g.Addr, push.Failed, exitPushFailed, "another host key than before", g.Fingerprint(), first, "ssh-keygen -R", known)
	}
	_, port, _ := net.SplitHostPort(g.Addr)
	if out, err := exec.Command("ssh-keygen", "-R", "[127.0.0.1]:"+port, "-f", known).CombinedOutput(); err != nil { // as it said
		t.Fatalf("%v: %s", err, out)
	}
	do("--accept-new-host-key").want(g.Addr, push.Fit, exitOK)
}

// TestPushToSeveral: hosts that fail hold up none of the others, and each says why.
func TestPushToSeveral(t *testing.T) {
	startPlane(t)
	good, also := pushtest.New(t, pushtest.Options{}), pushtest.New(t, pushtest.Options{})
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := closed.Addr().String()
	closed.Close()
	start := time.Now()
	p := pushTo(t, "--password-file", good.Password, good.Addr, gone, also.Addr, "--dry-run", "--parallel", "3")
	p.want(good.Addr, push.Fit, exitPushFailed)
	p.want(also.Addr, push.Fit, exitPushFailed)
	p.want(gone, push.Failed, exitPushFailed, "cannot be reached by SSH", "sshd")
	t.Logf("three hosts in %s", time.Since(start))
	wrong := filepath.Join(t.TempDir(), "password")
	writeFile(t, wrong, "a wrong one\n")
	pushTo(t, "--password-file", wrong, good.Addr).want(good.Addr, push.Failed, exitPushFailed, "does not let root in", "--password-file")
	pushTo(t, "--key", also.Key, good.Addr).want(good.Addr, push.Failed, exitPushFailed, "does not let root in")
}

// TestPushThatFails: where the service cannot be installed (here is no systemd), all that
// was done is taken back, at both ends.
func TestPushThatFails(t *testing.T) {
	startPlane(t)
	g := pushtest.New(t, pushtest.Options{})
	before := g.Files()
	p := pushTo(t, "--key", g.Key, "--user", pushtest.Free, "--sudo", g.Addr)
	p.want(g.Addr, push.Failed, exitPushFailed, "installing the agent")
	unchanged(t, g, before)
	if out, _ := cli(t, "machine", "list", "-o", "json"); out != "[]\n" {
		t.Errorf("a machine is left: %s", out)
	}
	if out, _ := cli(t, "token", "list", "-o", "json"); strings.Contains(out, `"open"`) {
		t.Errorf("a token is left: %s", out)
	}
}

// TestPushKeepsSecrets: the password is in no process's arguments while it is used for
// login and sudo, and in nothing that the control plane keeps.
func TestPushKeepsSecrets(t *testing.T) {
	data := startPlane(t)
	g := pushtest.New(t, pushtest.Options{})
	secret, err := os.ReadFile(g.Password)
	if err != nil {
		t.Fatal(err)
	}
	secret = bytes.TrimSpace(secret)
	stop, seen := watchArguments(secret)
	p := pushTo(t, "--password-file", g.Password, "--user", pushtest.Asker, "--sudo", g.Addr, "--dry-run")
	stop()
	p.want(g.Addr, push.Fit, exitOK)
	if args := seen(); args != "" {
		t.Errorf("the password was in the arguments of a process: %q", args)
	}
	if strings.Contains(p.text, string(secret)) {
		t.Errorf("the password was shown: %s", p.text)
	}
	filepath.Walk(data, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			if b, err := os.ReadFile(path); err != nil || bytes.Contains(b, secret) {
				t.Errorf("%s holds the password (%v)", path, err)
			}
		}
		return err
	})
	if found := g.In("grep -rlF -f - /etc /home /tmp /var/tmp /run 2>/dev/null <<'END' || true\n" + string(secret) + "\nEND"); found != "" {
		t.Errorf("the target keeps the password in %s", found)
	}
}

// watchArguments looks at the arguments of all processes, again and again; those of the
// targets are among them.
func watchArguments(secret []byte) (stop func(), seen func() string) {
	var found string
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, f := range all {
				if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, secret) {
					found = string(b)
				}
			}
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() { close(done); <-ended }, func() string { return found }
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
