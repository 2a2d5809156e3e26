package linux_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rpm works on the tree. Its database knows nothing of what dpkg installed there, so that
// dependencies are looked at by themselves.
func (tr *tree) rpm(args ...string) {
	tr.t.Helper()
	run(tr.t, "rpm", append([]string{"--root", tr.root, "--nodeps", "--dbpath", "/var/lib/rpm"}, args...)...)
}

func rpmOf(t *testing.T, name, version string) string {
	return filepath.Join(built(t, version), fmt.Sprintf("%s-%s-1.x86_64.rpm", name, version))
}

func TestAgentsRPM(t *testing.T) {
	file := rpmOf(t, "understudy-agent", older)
	if needs := run(t, "rpm", "-qp", "--requires", file); !strings.Contains(needs, "systemd") || strings.Contains(needs, "libc") {
		t.Errorf("it requires %q: want systemd, and no library", needs)
	}
	tr := newTree(t)
	bpffs := tr.bpffs()
	run(t, "rpm", "--root", tr.root, "--dbpath", "/var/lib/rpm", "--initdb")
	before := tr.files()
	slices.Sort(before)

	tr.rpm("--install", file)
	tr.version("/usr/bin/understudy-agent", older)
	tr.expect("installed", []string{enabledAgent, settings}, nil) // Debian's preset enables
	tr.expect("installed", atBoot[:5], nil)
	tr.write(identity, "{}")
	tr.write(settings, "UNDERSTUDY_AGENT_OPTS=\"--log-json\"\n")
	pins := capturing(t, bpffs)

	tr.rpm("--upgrade", rpmOf(t, "understudy-agent", newer))
	tr.version("/usr/bin/understudy-agent", newer)
	tr.expect("upgraded", []string{enabledAgent, identity, pins}, nil)
	if b, err := os.ReadFile(tr.path(settings)); err != nil || !strings.Contains(string(b), "--log-json") {
		t.Errorf("the administrator's settings after an upgrade: %q, %v", b, err)
	}

	tr.rpm("--erase", "understudy-agent")
	tr.expect("removed", []string{identity}, []string{"/usr/bin/understudy-agent", enabledAgent, pins})
	tr.delete("/var/lib/understudy-agent")
	left := slices.DeleteFunc(tr.added(before), func(name string) bool { return name == settings+".rpmsave" })
	if len(left) > 0 {
		t.Errorf("a removal leaves behind %q", left)
	}
}

func TestControlPlanesRPM(t *testing.T) {
	tr := newTree(t)
	run(t, "rpm", "--root", tr.root, "--dbpath", "/var/lib/rpm", "--initdb")
	tr.rpm("--install", rpmOf(t, "understudy", older))
	tr.in("id", "understudy")
	tr.write("/var/lib/understudy/vault/config", "x")
	tr.rpm("--upgrade", rpmOf(t, "understudy", newer))
	tr.version("/usr/bin/understudy", newer)
	tr.rpm("--erase", "understudy")
	tr.expect("removed", []string{"/var/lib/understudy/vault/config"}, []string{"/usr/bin/understudy", enabledPlane})
}
