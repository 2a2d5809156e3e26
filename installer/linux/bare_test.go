package linux_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/installer/linux/units"
)

// bare puts the agent's program of a version where an operator unpacked it.
func (l *live) bare(version string) string {
	l.t.Helper()
	dir := l.t.TempDir()
	run(l.t, "dpkg-deb", "--extract", filepath.Join(built(l.t, version), fmt.Sprintf("understudy-agent_%s_amd64.deb", version)), dir)
	run(l.t, "cp", filepath.Join(dir, units.AgentPath), l.path("/root/understudy-agent"))
	return "/root/understudy-agent"
}

// TestBareBinary: without a package the agent makes itself the same service.
func TestBareBinary(t *testing.T) {
	const unit, program = "/etc/systemd/system/understudy-agent.service", "/usr/local/bin/understudy-agent"
	l := boot(t)
	l.install("understudy", older)
	before := l.files()
	slices.Sort(before)
	disk := newDisk(t)

	l.in(l.bare(older), "install")
	text, err := os.ReadFile(l.path(unit))
	if err != nil || string(text) != strings.ReplaceAll(units.Agent, units.AgentPath, program) {
		t.Errorf("the unit is not that of the package: %q, %v", text, err)
	}
	l.enrol()
	l.protect(disk.device)
	first := l.protected(older)

	stop := disk.load()
	l.in(l.bare(newer), "install") // over the one that runs
	second := l.protected(newer)
	stop()
	if first.Protection != second.Protection {
		t.Errorf("the upgrade broke the epoch: %+v, then %+v", first.Protection, second.Protection)
	}

	l.in("understudy-agent", "uninstall")
	l.expect("uninstalled", []string{identity}, []string{unit, program})
	l.in(l.bare(newer), "install") // has enrolled: begins at once
	if state := l.in("systemctl", "is-active", "understudy-agent"); state != "active" {
		t.Errorf("the agent of an enrolled machine is %s after install", state)
	}
	l.in("understudy-agent", "uninstall", "--purge")
	if said, err := l.try("ls", "/sys/fs/bpf/understudy/agent"); err == nil {
		t.Errorf("capture is still in the kernel: %s", said)
	}
	if said, err := l.try("ls", "/run/understudy-agent"); err == nil {
		t.Errorf("the journal in memory is still there: %s", said)
	}
	l.delete("/root/understudy-agent")
	left := slices.DeleteFunc(l.added(before), func(name string) bool { return !strings.Contains(name, "understudy-agent") })
	if len(left) > 0 {
		t.Errorf("it leaves behind %q", left)
	}
}
