package linux_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/agent/capture"
)

const (
	enabledAgent = "/etc/systemd/system/multi-user.target.wants/understudy-agent.service"
	enabledPlane = "/etc/systemd/system/multi-user.target.wants/understudy.service"
	identity     = "/var/lib/understudy-agent/identity.json"
	settings     = "/etc/default/understudy-agent"
)

// atBoot is what begins the capture of a boot and ends it.
var atBoot = []string{
	"/usr/lib/systemd/system/sysinit.target.wants/understudy-agent-early.service",
	"/usr/lib/systemd/system/multi-user.target.wants/understudy-agent-unused.service",
	"/usr/lib/systemd/system-shutdown/understudy-agent",
	"/usr/lib/dracut/modules.d/90understudy-agent/module-setup.sh",
	"/usr/lib/dracut/modules.d/90understudy-agent/early.sh",
	"/usr/share/initramfs-tools/hooks/understudy-agent",
	"/usr/share/initramfs-tools/scripts/local-premount/understudy-agent",
}

// TestAgentsDeb goes through the life of an installed agent.
func TestAgentsDeb(t *testing.T) {
	tr := newTree(t)
	bpffs := tr.bpffs()
	before := tr.files()
	slices.Sort(before)

	tr.install("understudy-agent", older)
	tr.expect("installed", []string{enabledAgent, settings, "/usr/bin/understudy-agent"}, []string{"/var/lib/understudy-agent"})
	tr.expect("installed", atBoot, nil)
	tr.version("/usr/bin/understudy-agent", older)

	tr.write(identity, "{}")
	tr.write("/var/lib/understudy-agent/spill.hrl", "frames")
	tr.write("/run/understudy-agent/memory.hrl", "frames")
	tr.write(settings, "UNDERSTUDY_AGENT_OPTS=\"--log-json\"\n")
	pins := capturing(t, bpffs)
	tr.install("understudy-agent", newer)
	tr.version("/usr/bin/understudy-agent", newer)
	tr.expect("upgraded", []string{enabledAgent, identity, pins, "/run/understudy-agent/memory.hrl"}, nil)
	if b, err := os.ReadFile(tr.path(settings)); err != nil || !strings.Contains(string(b), "--log-json") {
		t.Errorf("the administrator's settings after an upgrade: %q, %v", b, err)
	}

	tr.in("systemctl", "disable", "understudy-agent.service")
	tr.install("understudy-agent", newer)
	tr.expect("installed over a disabled one", nil, []string{enabledAgent})
	tr.in("systemctl", "enable", "understudy-agent.service")

	tr.in("dpkg", "--remove", "understudy-agent")
	tr.expect("removed", []string{identity, settings}, []string{"/usr/bin/understudy-agent", "/run/understudy-agent", pins, "/sys/fs/bpf/understudy"})

	tr.install("understudy-agent", newer)
	tr.expect("installed again", []string{enabledAgent, identity}, nil)

	capturing(t, bpffs)
	tr.in("dpkg", "--purge", "understudy-agent")
	if left := tr.added(before); len(left) > 0 {
		t.Errorf("a purge leaves behind %q", left)
	}
}

// capturing leaves the capture in the kernel, as an agent does that stops.
func capturing(t *testing.T, bpffs string) (pins string) {
	t.Helper()
	source, _, err := capture.Open(capture.Options{BPFFS: bpffs, RingBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := source.Close(); err != nil {
		t.Fatal(err)
	}
	links, err := os.ReadDir(filepath.Join(bpffs, "understudy/agent/live/links"))
	if err != nil || len(links) == 0 {
		t.Fatalf("nothing is pinned: %v", err)
	}
	return "/sys/fs/bpf/understudy/agent"
}

func (tr *tree) version(program, want string) {
	tr.t.Helper()
	if got := tr.in(program, "--version"); !strings.Contains(got, want) {
		tr.t.Errorf("%s --version: %q, want %s", program, got, want)
	}
}

// TestControlPlanesDeb: what it holds is other machines' past, and outlives a purge.
func TestControlPlanesDeb(t *testing.T) {
	tr := newTree(t)
	before := tr.files()
	slices.Sort(before)

	tr.install("understudy", older)
	tr.expect("installed", []string{enabledPlane, "/etc/default/understudy", "/usr/lib/understudy/agents/linux-arm64/understudy-agent"}, nil)
	tr.version("/usr/lib/understudy/agents/linux-amd64/understudy-agent", older)
	tr.in("id", "understudy")
	held := []string{"vault/config", "vault.key", "spool/1", "recovered/web1.raw"}
	for _, name := range append(held, "inventory.db", "pki/ca.pem", "operator.token") {
		tr.write("/var/lib/understudy/"+name, "x")
	}
	tr.install("understudy", newer)
	tr.version("/usr/bin/understudy", newer)

	tr.in("dpkg", "--remove", "understudy")
	tr.expect("removed", []string{"/var/lib/understudy/inventory.db", "/etc/default/understudy"}, []string{"/usr/bin/understudy", "/usr/lib/understudy"})

	said := tr.in("dpkg", "--purge", "understudy")
	if !strings.Contains(said, "/var/lib/understudy keeps the vault") {
		t.Errorf("a purge does not say what it leaves: %q", said)
	}
	for _, name := range held {
		tr.expect("purged", []string{"/var/lib/understudy/" + name}, nil)
	}
	tr.delete("/var/lib/understudy")
	left := slices.DeleteFunc(tr.added(before), func(name string) bool {
		return strings.HasPrefix(name, "/etc/passwd") || strings.HasPrefix(name, "/etc/group") || strings.HasPrefix(name, "/etc/shadow") || strings.HasPrefix(name, "/etc/gshadow") || name == "/etc/.pwd.lock"
	})
	if len(left) > 0 {
		t.Errorf("a purge leaves behind %q", left)
	}
}

// TestUnits has systemd itself read the units, and say how exposed they are.
func TestUnits(t *testing.T) {
	tr := newTree(t)
	tr.install("understudy-agent", older)
	tr.install("understudy", older)
	for unit, threshold := range map[string]string{
		// The agent reads whole disks, loads programs into the kernel, runs scripts and switches
		// its machine off when a failover asks for it; its unit says why.
		"understudy-agent.service": "58",
		// They end before anybody else begins.
		"understudy-agent-early.service":  "100",
		"understudy-agent-unused.service": "100",
		// The control plane boots machines: it has KVM, and without it code that is made as it runs.
		"understudy.service": "18",
	} {
		if said := tr.in("systemd-analyze", "verify", "--man=no", "/usr/lib/systemd/system/"+unit); said != "" {
			t.Errorf("%s: %s", unit, said)
		}
		said := tr.in("systemd-analyze", "security", "--no-pager", "--offline=yes", "--threshold="+threshold, "/usr/lib/systemd/system/"+unit)
		lines := strings.Split(strings.TrimSpace(said), "\n")
		t.Log(lines[len(lines)-1])
	}
}
