//go:build testbed

package testbed

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/testbed/guest"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// readme are the commands of README.md, without their comments, that are not make's.
func readme(t *testing.T) (commands []string) {
	t.Helper()
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	shell := false
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "```"):
			shell = line == "```sh"
		case shell && !strings.HasPrefix(line, "make "):
			command, _, _ := strings.Cut(line, " #")
			commands = append(commands, strings.TrimSpace(command))
		}
	}
	return commands
}

// reader does what README.md says, word by word, but for the names that a reader replaces.
type reader struct {
	*strange
	left    []string // commands that were not run yet
	machine string
}

// words are those of the command that begins like this, with a reader's own names.
func (r *reader) words(begins string, own ...string) []string {
	r.t.Helper()
	i := slices.IndexFunc(r.left, func(c string) bool { return strings.HasPrefix(c, begins) })
	if i < 0 {
		r.t.Fatalf("README.md does not say %q any more; it says %q", begins, r.left)
	}
	command := strings.NewReplacer(own...).Replace(r.left[i])
	r.left = slices.Delete(r.left, i, i+1)
	return strings.Fields(strings.ReplaceAll(command, `"`, ""))
}

// operator runs a command of the operator's.
func (r *reader) operator(words []string, more ...string) string {
	r.t.Helper()
	out, err := r.site.CLI(r.t.Context(), append(words[1:], more...)...)
	if err != nil {
		r.t.Fatalf("%v: %v\n%s", words, err, out)
	}
	return out
}

// failover runs one that makes a failover.
func (r *reader) failover(words []string, more ...string) (f failover.Failover) {
	r.t.Helper()
	r.must(r.site.Ask(r.t.Context(), &f, append(words[1:], more...)...))
	if f.Status != inventory.JobDone {
		r.t.Fatalf("%v: %s %v", words, f.Status, f.Problem)
	}
	return f
}

// TestReadme: a machine is installed in three ways, protected, looked at, tried, failed
// over and verified, each by the command that README.md has for it.
func TestReadme(t *testing.T) {
	r := &reader{left: readme(t), strange: newStrangeOf(t, guest.Recipe{Packages: []string{"curl", "sudo"}, Size: 4096 * mib, Loader: true}, "--emulate")}
	r.packages()
	r.pushed()
	r.byHand()
	f := r.protectedAndTried()
	r.takenOver(f)
	if len(r.left) > 0 {
		t.Errorf("nobody runs what README.md says: %q", r.left)
	}
}

// packages installs both, as its maintainer's version, and removes them again.
func (r *reader) packages() {
	r.t.Helper()
	ctx, dist := r.t.Context(), r.t.TempDir()
	if out, err := exec.CommandContext(ctx, "../scripts/packages.sh", "1.2.0", dist).CombinedOutput(); err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"understudy", "understudy-agent"} {
		words := r.words("apt install ./" + name + "_")
		file := filepath.Base(words[2])
		r.must(r.guest.Put(ctx, filepath.Join(dist, file), "/root/"+file))
		words[1] = "install --yes --option APT::Default-Release=" // the image names one, and has no sources
		r.run("cd /root; export DEBIAN_FRONTEND=noninteractive; " + strings.Join(words, " ") + "; rm " + file)
		if state := r.run("systemctl is-enabled " + name); state != "enabled" {
			r.t.Errorf("%s is %s", name, state)
		}
	}
	r.must(lab.Until(ctx, 2*time.Minute, "control plane of the package", func() (bool, error) {
		_, err := r.guest.Run(ctx, "understudy machine list")
		return err == nil, err
	}))
	r.run("dpkg --purge understudy understudy-agent")
}

// pushed has the control plane bring the agent, and shows how a machine would fetch it.
func (r *reader) pushed() {
	r.t.Helper()
	const push = "understudy push web1 web2 --user admin --sudo"
	own := []string{"web1 web2", r.guest.Addr(), "admin", "ops"}
	r.pushBy(r.words(push+" --dry-run", own...)[1:], 0, "fit")
	r.pushBy(r.words(push, own...)[1:], 0, "installed")
	if out := r.operator(r.words("understudy token create --command"), "--control-plane", inGuest(r.site.API)); !strings.Contains(out, "curl ") {
		r.t.Errorf("the command is %q", out)
	}
}

// byHand enrols the machine where an agent is that somebody installed as a bare program.
func (r *reader) byHand() {
	r.t.Helper()
	ctx := r.t.Context()
	r.run("understudy-agent uninstall --purge")
	r.must(r.guest.Put(ctx, filepath.Join(r.bin, "understudy-agent"), "/root/understudy-agent"))
	r.run("/root/understudy-agent install && rm /root/understudy-agent")
	r.run(strings.Join(r.words("understudy-agent probe", "HOST:443", inGuest(r.site.API)), " "))
	token, err := r.site.Token(ctx)
	r.must(err)
	r.run("umask 077; echo " + token + " >/root/token")
	r.run(strings.Join(r.words("understudy-agent enrol", "HOST", inGuest(r.site.API), "FILE", "/root/token"), " ") + "; rm /root/token")
	if state := r.run("systemctl is-active understudy-agent"); state != "active" {
		r.t.Errorf("enrolled, the service is %s", state)
	}
	r.machine = r.run("cut -d '\"' -f 4 /var/lib/understudy-agent/identity.json")
}

// protectedAndTried protects the whole machine and tries its points; it returns the
// failover that booted.
func (r *reader) protectedAndTried() failover.Failover {
	r.t.Helper()
	ctx := r.t.Context()
	words := r.words("understudy protect web1", "web1", r.machine, "/dev/sda", "/dev/vda", "/dev/sdb", "/dev/vdb")
	r.must(lab.Until(ctx, 2*time.Minute, "report of the machine's disks", func() (bool, error) {
		_, err := r.site.CLI(ctx, words[1:]...)
		return err == nil, err
	}))
	protected := time.Now()
	r.untilShown(r.machine, mustVersion(r.t, r.bin))
	if out := r.untilEnd(r.words("understudy watch web1", "web1", r.machine)); !strings.Contains(out, "Protected") {
		r.t.Errorf("watch shows %q", out)
	}
	r.operator(r.words("understudy point create web1", "web1", r.machine))
	if out := r.operator(r.words("understudy point list web1", "web1", r.machine)); !strings.Contains(out, "before-upgrade") {
		r.t.Errorf("the points are %s", out)
	}
	r.operator(r.words("understudy point lock web1", "web1", r.machine, "14:03:20", time.Now().Add(-10*time.Second).Format("15:04:05")))
	if out := r.operator(r.words("understudy verify web1", "web1", r.machine)); !strings.Contains(out, "equal") {
		r.t.Errorf("verify says %s", out)
	}
	time.Sleep(time.Until(protected.Add(5 * time.Minute))) // there must be points of 90 s ago
	moment := time.Now().Add(-30 * time.Second).Format("15:04:05")
	files := r.failover(r.words("understudy failover test web1 --point", "web1", r.machine, "14:03:20", moment))
	if len(files.Copies) != 2 {
		r.t.Errorf("copies: %+v", files.Copies)
	}
	tried := r.failover(r.words("understudy failover test web1 --boot", "web1", r.machine), "--memory", "512MiB")
	r.operator(r.words("understudy failover cleanup JOB", "JOB", tried.ID))
	r.operator([]string{"", "failover", "cleanup", files.ID})
	return tried
}

// takenOver has a replica take over, and looks at what the control plane keeps.
func (r *reader) takenOver(tried failover.Failover) {
	r.t.Helper()
	ctx := r.t.Context()
	f := r.failover(r.words("understudy failover run web1", "web1", r.machine), "--memory", "512MiB")
	r.must(r.guest.Off(ctx))
	f = r.failover(r.words("understudy failover change-point JOB", "JOB", f.ID, "10m", tried.Point.ID))
	if f.Point.ID != tried.Point.ID {
		r.t.Errorf("it runs from point %s, want %s", f.Point.ID, tried.Point.ID)
	}
	if out := r.untilEnd(r.words("understudy disk serve web1", "web1", r.machine)); !strings.Contains(out, "nbd") {
		r.t.Errorf("disk serve says %q", out)
	}
	r.operator([]string{"", "failover", "commit", f.ID})
	r.operator([]string{"", "failover", "cleanup", "--force", f.ID})
	r.operator(r.words("understudy vault check"))
	r.must(r.site.Serve.Stop(20 * time.Second))
	for _, lost := range []string{"inventory.db", "inventory.db-wal", "inventory.db-shm"} {
		r.must(os.RemoveAll(filepath.Join(r.site.Data, lost)))
	}
	r.operator(r.words("understudy vault rebuild"))
	r.must(r.site.Start(ctx))
	if out := r.operator([]string{"", "machine", "list"}); !strings.Contains(out, r.machine[:8]) {
		r.t.Errorf("rebuilt, the machines are %s", out)
	}
}

// untilEnd runs a command that goes on until it is interrupted, for a moment.
func (r *reader) untilEnd(words []string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
	defer cancel()
	out, err := r.site.CLI(ctx, words[1:]...)
	if err != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		r.t.Errorf("%v: %v", words, err)
	}
	return out
}
