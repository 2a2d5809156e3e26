package main

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/push"
	"github.com/understudy-dr/understudy/controlplane/push/pushtest"
)

// TestPullCommand: the command fetches the agent from the control plane of its token, and
// runs nothing from another. The service cannot be installed here; nothing is left then.
func TestPullCommand(t *testing.T) {
	startPlane(t)
	agents, err := agentDir()
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The control plane of this test looks beside its own program.
	if err := os.Symlink(filepath.Join(agents, "understudy-agent"), filepath.Join(filepath.Dir(own), "understudy-agent")); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(filepath.Join(filepath.Dir(own), "understudy-agent")) })
	g := pushtest.New(t, pushtest.Options{})
	before := g.Files()
	command, code := cli(t, "token", "create", "--command", "--control-plane", "127.0.0.1")
	if code != exitOK {
		t.Fatal(command)
	}
	command = strings.TrimSpace(command)
	if said := g.In(command + " 2>&1 || true"); !strings.Contains(said, "installing the service") || !strings.Contains(said, "the agent was not installed") {
		t.Errorf("it says %q", said)
	}
	unchanged(t, g, before)
	fingerprint := command[strings.Index(command, "echo '")+6:][:64]
	foreign := strings.ReplaceAll(command, fingerprint, strings.Repeat("0", 64))
	if said := g.In(foreign + " 2>&1 || true"); said != "understudy: that is not the control plane of this token" {
		t.Errorf("against another control plane it says %q", said)
	}
	unchanged(t, g, before)
}

// TestPushIsCutOff: a target cleans up by itself when the connection is lost while the
// agent is copied, and what arrived is not taken for the whole.
func TestPushIsCutOff(t *testing.T) {
	startPlane(t)
	g := pushtest.New(t, pushtest.Options{})
	before := g.Files()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		to, err := net.Dial("tcp", g.Addr)
		if err != nil {
			return
		}
		defer to.Close()
		go io.Copy(conn, to)
		io.CopyN(to, conn, 4<<20) // of fourteen
	}()
	p := pushTo(t, "--key", g.Key, "--user", pushtest.Asker, "--password-file", g.Password, "--sudo", l.Addr().String())
	p.want(l.Addr().String(), push.Failed, exitPushFailed)
	if !slices.ContainsFunc(p.steps, func(e push.Event) bool { return e.Step == "copy" }) {
		t.Errorf("it was not copying: %s", p.text)
	}
	for end := time.Now().Add(20 * time.Second); !slices.Equal(g.Files(), before) && time.Now().Before(end); {
		time.Sleep(200 * time.Millisecond)
	}
	unchanged(t, g, before)
}

// TestPushBelievesNoTarget: a machine that was taken over claims to be another one as soon
// as it is given a token. What fails then must not befall the other.
func TestPushBelievesNoTarget(t *testing.T) {
	data := startPlane(t)
	dir, err := agentDir()
	if err != nil {
		t.Fatal(err)
	}
	address, err := os.ReadFile(filepath.Join(data, addressName))
	if err != nil {
		t.Fatal(err)
	}
	token, _ := cli(t, "token", "create")
	victim := t.TempDir()
	enrol := exec.Command(filepath.Join(dir, "understudy-agent"), "enrol", "--dir", victim, "--server", strings.TrimSpace(string(address)), "--token-file", "-")
	enrol.Stdin = strings.NewReader(token)
	if out, err := enrol.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	identity, err := os.ReadFile(filepath.Join(victim, "identity.json"))
	if err != nil {
		t.Fatal(err)
	}
	g := pushtest.New(t, pushtest.Options{})
	g.In(`cat >/usr/local/bin/understudy-agent <<'END'
#!/bin/sh
case $1 in
--version) echo understudy-agent version 6.0.0 ;;
enrol) mkdir -p /var/lib/understudy-agent; echo '` + strings.TrimSpace(string(identity)) + `' >/var/lib/understudy-agent/identity.json ;;
esac
END
		chmod 755 /usr/local/bin/understudy-agent; mkdir -p /etc/systemd/system; echo >/etc/systemd/system/understudy-agent.service`)
	p := pushTo(t, "--key", g.Key, g.Addr)
	p.want(g.Addr, push.Failed, exitPushFailed, "nobody has used the token")
	if out, _ := cli(t, "machine", "list", "-o", "json"); strings.Count(out, `"hostname"`) == 0 {
		t.Errorf("the other machine is gone: %s", out)
	}
	if out, _ := cli(t, "token", "list", "-o", "json"); strings.Contains(out, `"open"`) {
		t.Errorf("the token is still good: %s", out)
	}
}

// TestPushOfAPackageThatFails: dpkg installs it, the machine enrols, and never reports, for
// its service does not start (here is no systemd): package, identity and machine are gone
// again.
func TestPushOfAPackageThatFails(t *testing.T) {
	startPlane(t)
	deb := agentDeb(t)
	g := pushtest.New(t, pushtest.Options{})
	before := slices.DeleteFunc(g.Files(), ofPackages)
	p := pushTo(t, "--key", g.Key, g.Addr, "--package", deb, "--wait", "3s")
	p.want(g.Addr, push.Failed, exitPushFailed, "has not reported within 3s", "the machine is as it was")
	if !slices.ContainsFunc(p.steps, func(e push.Event) bool { return e.Step == "install" && e.Detail == "version 8.0.0" }) {
		t.Errorf("the package's version was not told: %s", p.text)
	}
	if left := slices.DeleteFunc(g.Files(), func(f string) bool { return ofPackages(f) || slices.Contains(before, f) }); len(left) > 0 {
		t.Errorf("it leaves %q", left)
	}
	if said := g.In("dpkg -s understudy-agent 2>&1 || true"); !strings.Contains(said, "not installed") {
		t.Errorf("dpkg says %q", said)
	}
	if out, _ := cli(t, "machine", "list", "-o", "json"); out != "[]\n" {
		t.Errorf("a machine is left: %s", out)
	}
	pushTo(t, "--key", g.Key, g.Addr, "--package", "push.rpm").no(g.Addr, "package", ".deb")
}

// ofPackages are the package manager's own files.
func ofPackages(name string) bool {
	return strings.HasPrefix(name, "/var/lib/dpkg") || strings.HasPrefix(name, "/var/lib/systemd/deb-systemd-helper") || name == "/var/lib/systemd"
}

// agentDeb is the agent's package, as scripts/packages.sh makes it, of another version.
func agentDeb(t *testing.T) string {
	t.Helper()
	dir, err := agentDir()
	if err != nil {
		t.Fatal(err)
	}
	gopath, err := exec.Command("go", "env", "GOPATH").Output()
	if err != nil {
		t.Fatal(err)
	}
	deb := filepath.Join(t.TempDir(), "push.deb")
	cmd := exec.Command(filepath.Join(strings.TrimSpace(string(gopath)), "bin", "nfpm"), "package", "--config", "installer/linux/agent/nfpm.yaml", "--packager", "deb", "--target", deb)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "VERSION=8.0.0", "ARCH=amd64", "BIN="+dir, "SOURCE_DATE_EPOCH=1700000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s: run scripts/setup.sh test", err, out)
	}
	return deb
}
