//go:build testbed

package testbed

import (
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/controlplane/daemon"
	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/testbed/guest"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// replicaUnit is the agent of the machine whose disk it is.
const replicaUnit = `[Service]
ExecStart=/usr/local/bin/understudy-agent run --spill-bytes 0
StandardError=append:/var/log/agent.log
[Install]
WantedBy=multi-user.target
`

// bus is one that the guest's kernel has a driver for. A disk of this host has none to tell.
const bus = "virtio_blk"

// bootRig is a machine with a disk that boots: the disk is one of this host, its agent
// runs here, and an application writes to its file system. So a failover is tried with no
// machine but the replica's.
type bootRig struct {
	*rig
	image *guest.Image
	mount string
	acked atomic.Int64 // the newest number that the application was told to be on the disk
	stop  chan struct{}
	ended chan error
}

// bootable protects a disk of this size with the image's content.
func bootable(t *testing.T, size int64) *bootRig {
	t.Helper()
	ctx := t.Context()
	i, err := guest.Build(ctx, guest.Recipe{Loader: true})
	if err != nil {
		t.Fatal(err)
	}
	bin := binaries(t)
	l, err := lab.New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	l.CloseOnSignal()
	r := &bootRig{rig: &rig{Lab: l, t: t, patience: 5}, image: i, stop: make(chan struct{}), ended: make(chan error, 1)}
	t.Cleanup(r.close)
	r.site, err = l.NewSite(ctx, bin, "--emulate")
	r.must(err)
	r.must(r.site.Start(ctx))
	r.machine = r.site.NewMachine("agent")
	r.must(r.machine.Enrol(ctx))
	file := l.Path("root.disk")
	r.tool("cp", "--sparse=always", i.Disk(), file)
	r.must(os.Truncate(file, max(size, i.Recipe.Size)))
	d, err := l.OpenDisk(ctx, "root", file, lab.Ext4)
	r.must(err)
	r.disks = []*lab.Disk{d}
	r.furnish(bin)
	r.must(r.machine.Agent.Start())
	r.must(r.machine.SetRPO(ctx, 3*time.Second))
	r.must(r.machine.Protect(ctx, d))
	r.untilProtected()
	go func() { r.ended <- r.apply() }()
	t.Cleanup(r.quit)
	return r
}

// furnish mounts the disk's file system and makes it that of the protected machine, whose
// agent and identity it has.
func (r *bootRig) furnish(bin string) {
	r.t.Helper()
	// Not --add: a scenario that was killed may have left its partitions with the device.
	r.tool("partx", "--update", r.disks[0].Device)
	r.mount = r.Path("mnt", "root")
	r.must(os.MkdirAll(r.mount, 0o755))
	r.tool("mount", r.disks[0].Device+"p1", r.mount)
	r.disks[0].Mount = r.mount
	agent, err := os.ReadFile(filepath.Join(bin, "understudy-agent"))
	r.must(err)
	r.put("usr/local/bin/understudy-agent", string(agent), 0o755)
	r.put("etc/systemd/system/understudy-agent.service", replicaUnit, 0o644)
	for _, name := range []string{"identity.json", "identity.pem"} {
		text, err := os.ReadFile(r.Path("agent", name))
		r.must(err)
		r.put("var/lib/understudy-agent/"+name, string(text), 0o600)
	}
	wants := filepath.Join(r.mount, "etc/systemd/system/multi-user.target.wants")
	r.must(os.MkdirAll(wants, 0o755))
	r.must(os.Symlink("/etc/systemd/system/understudy-agent.service", filepath.Join(wants, "understudy-agent.service")))
	r.must(os.MkdirAll(filepath.Join(r.mount, "srv/app"), 0o755))
}

// tool runs a program of the host.
func (r *bootRig) tool(name string, args ...string) {
	r.t.Helper()
	if out, err := exec.CommandContext(r.t.Context(), name, args...).CombinedOutput(); err != nil {
		r.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

func (r *bootRig) put(name, text string, mode os.FileMode) {
	r.t.Helper()
	path := filepath.Join(r.mount, name)
	r.must(errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)))
}

// apply is the application: it appends numbers, and counts one as kept when the disk has it.
func (r *bootRig) apply() error {
	f, err := os.OpenFile(filepath.Join(r.mount, "srv/app/log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	for n := int64(1); ; n++ {
		select {
		case <-r.stop:
			return nil
		case <-time.After(20 * time.Millisecond):
		}
		if _, err := fmt.Fprintln(f, n); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		r.acked.Store(n)
	}
}

// quit ends the application and takes its file system down.
func (r *bootRig) quit() {
	close(r.stop)
	if err := <-r.ended; err != nil {
		r.t.Error("the application:", err)
	}
	if err := lab.Until(context.Background(), 20*time.Second, "idle file system", func() (bool, error) {
		err := unix.Unmount(r.mount, 0)
		return err == nil, err
	}); err != nil {
		r.t.Error(err)
	}
	r.disks[0].Mount = ""
	_ = exec.Command("partx", "--delete", r.disks[0].Device).Run()
}

// promised is what the application was told by now, once the vault has it.
func (r *bootRig) promised() int64 {
	r.t.Helper()
	r.must(lab.Until(r.t.Context(), time.Minute, "application that writes", func() (bool, error) { return r.acked.Load() > 0, nil }))
	n := r.acked.Load()
	r.untilPoint(time.Now())
	return n
}

// boot runs a failover verb and returns what it made.
func (r *bootRig) boot(args ...string) failover.Failover {
	r.t.Helper()
	f, err := r.tryBoot(args...)
	r.must(err)
	return f
}

func (r *bootRig) tryBoot(args ...string) (f failover.Failover, err error) {
	begun := time.Now()
	if err = r.site.Ask(r.t.Context(), &f, append([]string{"failover"}, args...)...); err == nil {
		r.t.Logf("%v: up by %s after %.1f s, of which %.1f s in its firmware and its system: %s", args, f.Proof.By, time.Since(begun).Seconds(), f.Proof.Seconds, f.Proof.Said)
	}
	return f, err
}

func (r *bootRig) show(id string) (f failover.Failover) {
	r.t.Helper()
	r.must(r.site.Ask(r.t.Context(), &f, "failover", "show", id))
	return f
}

// enter is the replica, from inside.
func (r *bootRig) enter(f failover.Failover) func(script string) string {
	r.t.Helper()
	g, err := guest.Enter(r.image, "replica", f.Replica.Ports["22"])
	r.must(err)
	return func(script string) (out string) {
		r.t.Helper()
		r.must(lab.Until(r.t.Context(), 3*time.Minute, "answer of the replica", func() (bool, error) {
			var err error
			out, err = g.Run(r.t.Context(), script)
			return err == nil, err
		}))
		return strings.TrimSpace(out)
	}
}

// has checks that the replica has what was promised, and is none of later.
func (r *bootRig) has(run func(string) string, promised int64) {
	r.t.Helper()
	n, err := strconv.ParseInt(run("tail -n 1 /srv/app/log"), 10, 64)
	if err != nil || n < promised || promised == 0 {
		r.t.Errorf("the replica's application has %d (%v), and %d was promised", n, err, promised)
	}
	if whole := run(fmt.Sprintf("seq %d | cmp - /srv/app/log && echo whole", n)); whole != "whole" {
		r.t.Errorf("the application's file: %s", whole)
	}
}

// processesOf are a failover's machine and the server of its disks.
func processesOf(f failover.Failover) []int {
	return append(daemon.Find(filepath.Join(f.Dir, "qmp"), "qemu-system-x86_64"), daemon.Find(filepath.Join(f.Dir, "disks"), "understudy")...)
}

// leftNothing checks that no process, socket or file of a failover is left.
func (r *bootRig) leftNothing(f failover.Failover) {
	r.t.Helper()
	if left := processesOf(f); len(left) > 0 {
		r.t.Errorf("processes are left: %v", left)
	}
	if _, err := os.Stat(f.Dir); err == nil {
		files, _ := os.ReadDir(f.Dir)
		r.t.Errorf("%s is left, with %v", f.Dir, files)
	}
	point, err := r.site.CLI(r.t.Context(), "point", "show", r.machine.ID(), f.Point.ID, "--output", "json")
	if err != nil || strings.Contains(point, `"locked": true`) {
		r.t.Errorf("the point is held for ever: %s (%v)", point, err)
	}
}

// TestTestFailoverBoots: a machine boots from the vault, has what its application was
// promised, knows that it is a replica, survives its control plane, and leaves nothing.
func TestTestFailoverBoots(t *testing.T) {
	r := bootable(t, 0)
	promised := r.promised()
	f := r.boot("test", r.machine.ID(), "--boot", "--memory", "512MiB", "--bus", bus)
	run := r.enter(f)
	r.has(run, promised)
	if log := run("cat /var/log/agent.log"); !strings.Contains(log, "this machine is a replica") || !strings.Contains(log, f.ID) {
		t.Errorf("the replica's agent does not know what it is: %s", log)
	}
	if out := run("timeout 3 bash -c '</dev/tcp/10.0.2.2/22' 2>&1 && echo reached || echo isolated"); !strings.HasSuffix(out, "isolated") {
		t.Errorf("the replica reaches its host: %s", out)
	}
	r.pictured(f)

	run("echo survived >/root/note; sync")
	r.site.Serve.Kill()
	r.must(r.site.Start(t.Context()))
	if note := run("sync; cat /root/note"); note != "survived" {
		t.Errorf("after a restart of the control plane: %q", note)
	}
	if now := r.show(f.ID); now.Status != inventory.JobDone || now.Replica.PID != f.Replica.PID {
		t.Errorf("%+v", now)
	}
	// Its host loses its power: what the machine was told to be on its disk is there again.
	running := processesOf(f)
	if len(running) != 2 {
		t.Errorf("processes %v, want a machine and the server of its disks", running)
	}
	for _, pid := range running {
		r.must(unix.Kill(pid, unix.SIGKILL))
	}
	r.must(lab.Until(t.Context(), 30*time.Second, "machine that is off", func() (bool, error) { return r.show(f.ID).State == "off", nil }))
	f = r.boot("power-on", f.ID)
	if note := r.enter(f)("cat /root/note"); note != "survived" {
		t.Errorf("after the host lost its power: %q", note)
	}
	r.untilPoint(time.Now()) // replication goes on
	r.wantEpoch(1)

	_, err := r.site.CLI(t.Context(), "failover", "cleanup", f.ID)
	r.must(err)
	r.leftNothing(f)
	if _, err := os.Stat(f.Proof.Screenshot); err != nil {
		t.Errorf("the proof is gone: %v", err)
	}
}

// pictured checks that the kept screen shows something, and the kept console the login, if
// that was the proof.
func (r *bootRig) pictured(f failover.Failover) {
	r.t.Helper()
	file, err := os.Open(f.Proof.Screenshot)
	r.must(err)
	defer file.Close()
	screen, err := png.Decode(file)
	r.must(err)
	if colours := coloursOf(screen); colours < 2 {
		r.t.Errorf("the screenshot has %d colour", colours)
	}
	console, err := os.ReadFile(f.Proof.Console)
	if err != nil || len(console) == 0 && f.Proof.By == "login" {
		r.t.Errorf("the console: %d bytes, %v", len(console), err)
	}
}

func coloursOf(i image.Image) int {
	seen := map[any]bool{}
	for y := i.Bounds().Min.Y; y < i.Bounds().Max.Y; y++ {
		for x := i.Bounds().Min.X; x < i.Bounds().Max.X; x++ {
			seen[i.At(x, y)] = true
		}
	}
	return len(seen)
}

// sshCheck is an operator's check: the machine's ssh answers.
const sshCheck = `#!/bin/bash
exec 3<>/dev/tcp/${UNDERSTUDY_PORT_22/:/\/} && read -r -t 5 banner <&3 && [[ $banner == SSH-2.0-* ]] && echo "$banner"
`

// TestRunBootsChangesAndCommits: the machine that takes over is of the newest point, then
// of an older one, then for good.
func TestRunBootsChangesAndCommits(t *testing.T) {
	r := bootable(t, 0)
	ctx := t.Context()
	early := r.promised()
	before, err := r.machine.Points(ctx, time.Now().Add(-time.Hour), time.Now())
	r.must(err)
	late := r.promised()
	r.must(os.MkdirAll(filepath.Join(r.site.Data, "checks"), 0o700))
	r.must(os.WriteFile(filepath.Join(r.site.Data, "checks", "ssh"), []byte(sshCheck), 0o700))

	hardware := []string{"--memory", "512MiB", "--bus", bus, "--check", "ssh"}
	_, err = r.site.CLI(ctx, append([]string{"failover", "run", r.machine.ID(), "--boot"}, hardware...)...)
	if lab.ExitCode(err) != 2 {
		t.Errorf("nobody said what becomes of the source: %v", err)
	}
	f := r.boot(append([]string{"run", r.machine.ID(), "--boot", "--source-is-gone"}, hardware...)...)
	if f.Proof.By != "script" || !strings.HasPrefix(f.Proof.Said, "SSH-2.0-OpenSSH") {
		t.Errorf("up by %s: %s", f.Proof.By, f.Proof.Said)
	}
	r.has(r.enter(f), late)
	r.until(20*time.Second, "state FailedOver", func(v lab.View) bool { return v.Status.State == "FailedOver" })

	f = r.boot("change-point", f.ID, "--force", "--point", before[len(before)-1].ID)
	run := r.enter(f)
	r.has(run, early)
	if n, err := strconv.ParseInt(run("tail -n 1 /srv/app/log"), 10, 64); err != nil || n >= late {
		t.Errorf("the earlier point has %d (%v), and %d was of later", n, err, late)
	}
	_, err = r.site.CLI(ctx, "failover", "commit", f.ID)
	r.must(err)
	r.until(20*time.Second, "state Committed", func(v lab.View) bool { return v.Status.State == "Committed" })
	if _, err = r.site.CLI(ctx, "failover", "change-point", f.ID, "--force"); lab.ExitCode(err) != 4 {
		t.Errorf("the point of a committed failover was changed: %v", err)
	}
	if _, err = r.site.CLI(ctx, "failover", "cleanup", f.ID); lab.ExitCode(err) != 4 {
		t.Errorf("what took over was removed without force: %v", err)
	}
	_, err = r.site.CLI(ctx, "failover", "cleanup", "--force", f.ID)
	r.must(err)
	r.leftNothing(f)
}

// TestBootTakesNoLongerFromALargerDisk: of two machines that boot side by side, the one
// with ten times the disk is up as soon. Nothing of a disk is read but what its machine reads.
func TestBootTakesNoLongerFromALargerDisk(t *testing.T) {
	const gib = 1 << 30
	type upAfter struct{ power, login time.Duration }
	var rigs []*bootRig
	for _, size := range []int64{20 * gib, 200 * gib} {
		r := bootable(t, size)
		r.promised()
		rigs = append(rigs, r)
	}
	took := make([]upAfter, len(rigs))
	var group errgroup.Group
	for i, r := range rigs {
		group.Go(func() error {
			f, err := r.tryBoot("test", r.machine.ID(), "--boot", "--memory", "512MiB", "--bus", bus)
			if err != nil {
				return err
			}
			took[i] = upAfter{f.Replica.Since.Sub(f.Created), f.Proof.At.Sub(f.Created)}
			_, err = r.site.CLI(t.Context(), "failover", "cleanup", f.ID)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	small, large := took[0], took[1]
	t.Logf("20 GiB: powered on after %s, login after %s; 200 GiB: %s, %s", small.power, small.login, large.power, large.login)
	if large.power > 2*small.power+5*time.Second || large.login > small.login*3/2 {
		t.Errorf("a disk ten times as large makes a boot slower: %v after %v", large, small)
	}
}

// TestDrillBootsAndCleansUp: proof without anybody who looks on.
func TestDrillBootsAndCleansUp(t *testing.T) {
	r := bootable(t, 0)
	r.promised()
	_, err := r.site.CLI(t.Context(), "policy", "set", "default", "--drill-bus", bus, "--drill-memory", "512MiB")
	r.must(err)
	var drill failover.Failover
	r.must(r.site.Ask(t.Context(), &drill, "drill", "now", r.machine.ID()))
	if drill.Status != inventory.JobDone || !drill.Proof.Up {
		t.Errorf("%+v", drill)
	}
	r.pictured(drill)
	r.leftNothing(drill)
	var all []failover.Failover
	r.must(r.site.Ask(t.Context(), &all, "drill", "list"))
	if len(all) != 1 || all[0].ID != drill.ID {
		t.Errorf("%+v", all)
	}
}
