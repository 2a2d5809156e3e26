//go:build testbed

package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/guest"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// strange is a guest that has never seen an agent, and a control plane that it reaches.
type strange struct {
	*guestRig
	image *guest.Image
	bin   string
}

// newStrange has on its guest what a machine may have, and a user who may use sudo.
func newStrange(t *testing.T) *strange {
	t.Helper()
	// The journal's disk stage has 1 GiB by default.
	return newStrangeOf(t, guest.Recipe{Packages: []string{"curl", "sudo"}, Size: 4096 * mib})
}

func newStrangeOf(t *testing.T, recipe guest.Recipe, flags ...string) *strange {
	t.Helper()
	ctx := t.Context()
	image, err := guest.Build(ctx, recipe)
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	l.CloseOnSignal()
	s := &strange{guestRig: &guestRig{rig: &rig{Lab: l, t: t, patience: 5}}, image: image, bin: binaries(t)}
	t.Cleanup(s.close)
	s.site, err = l.NewSite(ctx, s.bin, flags...)
	s.must(err)
	s.site.Advertise(inGuest(s.site.Relay))
	s.must(s.site.Start(ctx))
	s.guest, err = guest.Boot(ctx, l, guest.Options{Name: "guest", Image: image,
		Disks: []guest.Disk{{Name: "data", Size: 128 * mib}}, Reach: []string{s.site.API, s.site.Relay}})
	s.must(err)
	t.Cleanup(s.service)
	s.run(`useradd --create-home --shell /bin/bash --password "*" ops # not locked
		install -d -o ops -g ops -m 700 ~ops/.ssh
		install -o ops -g ops -m 600 ~/.ssh/authorized_keys ~ops/.ssh/authorized_keys
		echo 'ops ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/ops
		mkfs.ext4 -q -L data /dev/vdb; mkdir -p /srv/data; mount /dev/vdb /srv/data; head -c 16M /dev/urandom >/srv/data/old; sync`)
	return s
}

// service shows what the agent's service said, if it matters.
func (s *strange) service() {
	if !s.t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), 30*time.Second)
	defer cancel()
	out, err := s.guest.Run(ctx, "systemctl --no-pager status understudy-agent || true; journalctl --no-pager -n 40 -u understudy-agent || true")
	s.t.Logf("in the guest (%v):\n%s", err, out)
}

// pushed is how a push to the guest ended.
type pushed struct {
	Outcome string `json:"outcome"`
	Message string `json:"message"`
	Machine string `json:"machine"`
	Version string `json:"version"`
}

func (s *strange) push(code int, outcome string, args ...string) (p pushed) {
	s.t.Helper()
	return s.pushBy([]string{"push", s.guest.Addr(), "--user", "ops", "--sudo"}, code, outcome, args...)
}

// pushBy completes a push by what the lab is.
func (s *strange) pushBy(words []string, code int, outcome string, args ...string) (p pushed) {
	s.t.Helper()
	began := time.Now()
	out, err := s.site.CLI(s.t.Context(), append(append(words, "--key", s.image.KeyFile(), "-o", "json",
		"--known-hosts", s.Path("known_hosts"), "--accept-new-host-key", "--control-plane", inGuest(s.site.API), "--wait", "10m"), args...)...)
	if lab.ExitCode(err) != code || code == 0 && err != nil {
		s.t.Fatalf("push %q: %v, want exit code %d:\n%s", args, err, code, out)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	s.must(json.Unmarshal([]byte(lines[len(lines)-1]), &p))
	if p.Outcome != outcome {
		s.t.Fatalf("push %q ended with %+v, want %s:\n%s", args, p, outcome, out)
	}
	s.t.Logf("push %q: %s after %s", args, p.Message, time.Since(began).Round(time.Second/10))
	return p
}

// files are all that the guest has, beside what changes by itself.
func (s *strange) files() []string {
	s.t.Helper()
	return strings.Split(s.run(`find / /run /tmp /sys/fs/bpf -xdev ! -path '/proc/*' ! -path '/var/log/*' ! -path '/run/systemd/*' ! -path '/run/udev/*' ! -path '/run/log/*' ! -path '/run/sudo*' \
		! -path '/tmp/systemd-private*' ! -path '/var/tmp/systemd-private*' ! -path '/var/lib/systemd/*' ! -path '/run/credentials*' ! -path '/run/sshd*' ! -path '/run/user*' | sort -u`), "\n")
}

// asBefore fails where the guest has other files than before.
func (s *strange) asBefore(before []string) {
	s.t.Helper()
	after := s.files()
	for _, f := range after {
		if !slices.Contains(before, f) {
			s.t.Errorf("the guest has %s now", f)
		}
	}
	for _, f := range before {
		if !slices.Contains(after, f) {
			s.t.Errorf("the guest has no %s any more", f)
		}
	}
}

// watchTokens has the guest look at the arguments of its processes until it is stopped,
// and says what tokens it saw.
func (s *strange) watchTokens() (seen func() string) {
	s.t.Helper()
	s.run(`cat >/root/watch.sh <<'END'
while [ ! -e /root/stop ]; do grep -ahoE 'ust1_[0-9a-f]+' /proc/[0-9]*/cmdline; done 2>/dev/null
END
		rm -f /root/stop; (setsid sh /root/watch.sh >/root/seen 2>/dev/null </dev/null &)`)
	return func() string {
		return s.run("touch /root/stop; sleep 1; sort -u /root/seen; rm -f /root/stop /root/seen /root/watch.sh")
	}
}

// keepsNoToken fails if the control plane's log or a file of its data holds a token.
func (s *strange) keepsNoToken() {
	s.t.Helper()
	look := func(path string) {
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.t.Error(err)
		}
		if i := strings.Index(string(b), "ust1_"); i >= 0 {
			s.t.Errorf("%s holds a token: %.60q", path, b[i:])
		}
	}
	look(s.site.Serve.Log)
	s.must(filepath.WalkDir(s.site.Data, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			look(path)
		}
		return nil
	}))
}

// view is the machine as the control plane sees it.
func (s *strange) shown(machine string) (m struct {
	Host struct {
		AgentVersion string `json:"agent_version"`
	} `json:"host"`
	Status struct {
		State string `json:"state"`
	} `json:"status"`
	Protection struct {
		Epoch  uint64 `json:"epoch"`
		Reason string `json:"reason"`
	} `json:"protection"`
}) {
	s.t.Helper()
	s.must(s.site.Ask(s.t.Context(), &m, "machine", "show", machine))
	return m
}

func (s *strange) untilShown(machine, version string) {
	s.t.Helper()
	s.must(lab.Until(s.t.Context(), 4*time.Minute, "protection by the agent "+version, func() (bool, error) {
		if m := s.shown(machine); m.Status.State != "Protected" || m.Host.AgentVersion != version {
			return false, fmt.Errorf("%+v", m)
		}
		return true, nil
	}))
}

// broken is an agent that answers all of a push's questions and installs itself, but does
// not run: what an upgrade must survive.
const broken = `package main

import (
	"fmt"
	"os"
	"os/exec"
)

const program = "/usr/local/bin/understudy-agent"

func main() {
	if len(os.Args) < 2 {
		os.Exit(1)
	}
	own, _ := os.Executable()
	var cmd *exec.Cmd
	switch os.Args[1] {
	case "--version":
		fmt.Println("understudy-agent version 9.9.9")
		return
	case "probe": // the one that is there knows how
		cmd = exec.Command(program, os.Args[1:]...)
	case "install":
		cmd = exec.Command("sh", "-c", "cp "+own+" "+program+".new && mv "+program+".new "+program+" && systemctl restart understudy-agent || true")
	default:
		os.Exit(1)
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if cmd.Run() != nil {
		os.Exit(1)
	}
}
`

// brokenAgent builds it.
func (s *strange) brokenAgent() (dir string) {
	s.t.Helper()
	source := filepath.Join(s.t.TempDir(), "main.go")
	s.must(os.WriteFile(source, []byte(broken), 0o644))
	return s.build(source, "")
}

// agentVersion builds the agent of another version.
func (s *strange) agentVersion(version string) (dir string) {
	s.t.Helper()
	return s.build("../agent", "-X github.com/understudy-dr/understudy/pkg/obs.Version="+version)
}

func (s *strange) build(source, flags string) (dir string) {
	s.t.Helper()
	dir = s.t.TempDir()
	cmd := exec.CommandContext(s.t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w "+flags, "-o", filepath.Join(dir, "linux-amd64", "understudy-agent"), source)
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// TestPush: a machine that has never seen an agent is looked at, gets one, reports, has its
// disk protected, is upgraded in the same epoch, survives an upgrade that does not come up,
// and has nothing left when the agent is taken away.
func TestPush(t *testing.T) {
	s := newStrange(t)
	old := mustVersion(t, s.bin)
	before := s.files()
	s.must(s.guest.JumpClock(t.Context(), -2*time.Hour))
	if p := s.push(12, "unfit", "--dry-run"); !strings.Contains(p.Message, "clock") {
		t.Errorf("a machine whose clock is two hours behind: %+v", p)
	}
	s.must(s.guest.JumpClock(t.Context(), 2*time.Hour))
	s.push(0, "fit", "--dry-run", "--protect", "/dev/vdb")
	s.asBefore(before)

	tokens := s.watchTokens()
	first := s.push(0, "installed", "--protect", "/dev/vdb")
	if seen := tokens(); seen != "" {
		t.Errorf("the token was among the arguments of a process: %s", seen)
	}
	s.keepsNoToken()
	if first.Version != old || first.Machine == "" {
		t.Errorf("%+v, want version %s", first, old)
	}
	s.untilShown(first.Machine, old)
	if again := s.push(0, "unchanged"); again.Machine != first.Machine || !strings.Contains(again.Message, "already installed, version "+old) {
		t.Errorf("the second push: %+v", again)
	}
	epoch := s.shown(first.Machine).Protection

	s.push(13, "failed", "--upgrade", "--agents", s.brokenAgent(), "--wait", "20s")
	s.untilShown(first.Machine, old)

	if up := s.push(0, "upgraded", "--upgrade", "--agents", s.agentVersion("1.9.0")); up.Machine != first.Machine || up.Version != "1.9.0" {
		t.Errorf("the upgrade: %+v", up)
	}
	s.untilShown(first.Machine, "1.9.0")
	if now := s.shown(first.Machine).Protection; now != epoch {
		t.Errorf("the upgrades broke the epoch: %+v, then %+v", epoch, now)
	}

	s.push(0, "uninstalled", "--uninstall")
	if again := s.push(0, "installed"); again.Machine != first.Machine {
		t.Errorf("an agent that came back is machine %s, it was %s", again.Machine, first.Machine)
	}
	s.push(0, "uninstalled", "--uninstall", "--purge")
	s.asBefore(before)
	s.push(0, "unchanged", "--uninstall", "--purge")
	s.must(s.guest.Shutdown(t.Context()))
}

func mustVersion(t *testing.T, bin string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "understudy-agent"), "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(out))
	return words[len(words)-1]
}

// TestPull: the one command installs and enrols a machine; against another control plane
// than the token's it runs nothing.
func TestPull(t *testing.T) {
	s := newStrange(t)
	before := s.files()
	var made struct {
		Token   string `json:"token"`
		Command string `json:"command"`
	}
	s.must(s.site.Ask(t.Context(), &made, "token", "create", "--command", "--control-plane", inGuest(s.site.API)))
	last := made.Token[len(made.Token)-64:]
	foreign := strings.ReplaceAll(made.Command, last, strings.Repeat("0", 64))
	if out, err := s.guest.Run(t.Context(), foreign); err == nil || !strings.Contains(err.Error(), "not the control plane of this token") {
		t.Errorf("against another control plane: %v, %s", err, out)
	}
	s.asBefore(before)
	t.Log(s.run(made.Command))
	machine := s.run("cut -d '\"' -f 4 /var/lib/understudy-agent/identity.json")
	_, err := s.site.CLI(t.Context(), "protect", machine, "/dev/vdb")
	for end := time.Now().Add(time.Minute); err != nil && time.Now().Before(end); time.Sleep(time.Second) { // until it has reported its disks
		_, err = s.site.CLI(t.Context(), "protect", machine, "/dev/vdb")
	}
	s.must(err)
	s.untilShown(machine, mustVersion(t, s.bin))
	if out := s.run(made.Command); !strings.Contains(out, "has enrolled already") {
		t.Errorf("the second time it says %q", out)
	}
	s.must(s.guest.Shutdown(t.Context()))
}
