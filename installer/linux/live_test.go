package linux_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// live is a tree whose systemd runs: as process 1 of its own namespaces, with a network
// and a BPF file system of its own, on the kernel and the disks of this machine.
type live struct {
	*tree
	pid int
}

func boot(t *testing.T) *live {
	t.Helper()
	built(t, newer) // while nothing is measured, nor written
	l := &live{tree: newTree(t)}
	l.write("/etc/hostname", "web1\n")
	l.write("/etc/hosts", "127.0.0.1 localhost web1\n")
	cgroup := newCgroup(t)
	script, err := filepath.Abs("testdata/boot.sh")
	if err != nil {
		t.Fatal(err)
	}
	console, err := os.Create(filepath.Join(scratch, "console"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", script, l.root)
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET,
		UseCgroupFD: true, CgroupFD: cgroup, Pdeathsig: unix.SIGKILL, Setsid: true,
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l.pid = cmd.Process.Pid
	t.Cleanup(func() {
		if t.Failed() {
			said, _ := os.ReadFile(console.Name())
			t.Logf("the console, at its end:\n%s", said[max(0, len(said)-4000):])
			journal, _ := l.try("journalctl", "--no-pager", "-n", "80", "-u", "understudy*")
			t.Logf("the services' log, at its end:\n%s", journal)
		}
		_ = cmd.Process.Kill() // of process 1: its namespace goes with it
		_ = cmd.Wait()
	})
	l.until(time.Minute, "systemd to come up", func() error {
		said, err := l.try("systemctl", "is-system-running")
		if state := strings.TrimSpace(said); state == "running" || state == "degraded" {
			return nil
		}
		return fmt.Errorf("%s: %w", said, err)
	})
	return l
}

// newCgroup gives the tree's systemd a cgroup that it can take for the root.
func newCgroup(t *testing.T) int {
	t.Helper()
	all := t.TempDir()
	if err := unix.Mount("cgroup2", all, "cgroup2", 0, ""); err != nil {
		t.Fatalf("mounting cgroup2: %v", err)
	}
	dir, err := os.MkdirTemp(all, "understudy-packages-")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		// Children before their parents; what has just been killed takes a moment to leave.
		for range 50 {
			if _, err := try(context.Background(), "find", dir, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"); err == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err := unix.Unmount(all, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return int(f.Fd())
}

func (l *live) try(args ...string) (string, error) {
	inside := append([]string{"-t", strconv.Itoa(l.pid), "-a", "-r", "-w", "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"}, args...)
	return try(context.Background(), "nsenter", inside...)
}

// in runs a command inside the running tree.
func (l *live) in(args ...string) string {
	l.t.Helper()
	out, err := l.try(args...)
	if err != nil {
		l.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func (l *live) install(name, version string) {
	l.t.Helper()
	deb := fmt.Sprintf("%s_%s_amd64.deb", name, version)
	run(l.t, "cp", filepath.Join(built(l.t, version), deb), l.path("/root"))
	l.in("dpkg", "--install", "/root/"+deb)
	l.delete("/root/" + deb)
}

func (l *live) until(limit time.Duration, what string, ready func() error) {
	l.t.Helper()
	err := errors.New("not asked")
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if err = ready(); err == nil {
			return
		}
	}
	l.t.Fatalf("waited %s for %s: %v", limit, what, err)
}

// machine is what the control plane says of web1.
type machine struct {
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
}

func (l *live) machine() (m machine, err error) {
	out, err := l.try("understudy", "machine", "show", "web1", "-o", "json")
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal([]byte(out), &m)
}

// protected waits until the agent of this version protects the machine.
func (l *live) protected(version string) (m machine) {
	l.t.Helper()
	l.until(90*time.Second, "protection by the agent "+version, func() (err error) {
		if m, err = l.machine(); err == nil && (m.Status.State != "Protected" || m.Host.AgentVersion != version) {
			err = fmt.Errorf("%+v", m)
		}
		return err
	})
	return m
}

// enrolled installs both packages and enrols the machine: enrol starts the service.
func (l *live) enrolled() {
	l.t.Helper()
	l.install("understudy", older)
	if state := l.in("systemctl", "is-active", "understudy"); state != "active" {
		l.t.Fatalf("the control plane is %s after its installation", state)
	}
	l.install("understudy-agent", older)
	l.enrol()
}

func (l *live) enrol() {
	l.t.Helper()
	if said := l.in("systemctl", "show", "understudy-agent", "-p", "ActiveState,NRestarts,ConditionResult"); said != "NRestarts=0\nActiveState=inactive\nConditionResult=no" {
		l.t.Errorf("an agent that has not enrolled is to be skipped: %s", said)
	}
	l.in("understudy-agent", "enrol", "--server", "localhost", "--token", l.in("understudy", "token", "create"))
	if state := l.in("systemctl", "is-active", "understudy-agent"); state != "active" {
		l.t.Fatalf("the agent is %s after its enrolment", state)
	}
}

// protect protects a disk.
func (l *live) protect(disk string) {
	l.t.Helper()
	l.until(30*time.Second, "the agent's report of its disks", func() error {
		_, err := l.try("understudy", "protect", "web1", disk)
		return err
	})
}

// TestUpgradeUnderLoad: a package is installed, enrols, protects a disk, is upgraded while
// the disk is written, removed and purged. The image brought back holds every write.
func TestUpgradeUnderLoad(t *testing.T) {
	l := boot(t)
	before := l.files()
	slices.Sort(before)
	disk := newDisk(t)
	l.enrolled()
	l.protect(disk.device)
	first := l.protected(older)

	stop := disk.load()
	time.Sleep(2 * time.Second)
	pid := l.in("systemctl", "show", "understudy-agent", "-p", "MainPID")
	written := disk.written.Load()
	l.install("understudy-agent", newer)
	if again := l.in("systemctl", "show", "understudy-agent", "-p", "MainPID"); again == pid || again == "MainPID=0" {
		t.Errorf("the agent was not restarted by its upgrade: %s, %s", pid, again)
	}
	if disk.written.Load() == written {
		t.Error("nothing was written during the upgrade")
	}
	second := l.protected(newer)
	l.install("understudy", newer) // the control plane under load as well
	time.Sleep(2 * time.Second)
	stop()
	if first.Protection != second.Protection {
		t.Errorf("the upgrade broke the epoch: %+v, then %+v", first.Protection, second.Protection)
	}
	l.compare(disk, time.Now())

	l.in("dpkg", "--purge", "understudy-agent")
	if said, err := l.try("ls", "/sys/fs/bpf/understudy"); err == nil {
		t.Errorf("capture is still in the kernel: %s", said)
	}
	left := slices.DeleteFunc(l.added(before), func(name string) bool {
		return !strings.Contains(name, "understudy-agent") || strings.HasPrefix(name, "/usr/lib/understudy/") // what the control plane pushes
	})
	if len(left) > 0 {
		t.Errorf("a purge leaves behind %q", left)
	}
	if state, err := l.try("systemctl", "is-active", "understudy-agent"); err == nil {
		t.Errorf("the purged agent is %s", state)
	}
}

// compare brings the disk back as it was at the moment, and looks at every byte.
func (l *live) compare(d *disk, at time.Time) {
	l.t.Helper()
	type point struct {
		ID   string    `json:"id"`
		Time time.Time `json:"time"`
	}
	l.until(30*time.Second, "a point after the last write", func() error {
		var points []point
		out, err := l.try("understudy", "point", "list", "web1", "--from", at.Format(time.RFC3339Nano), "-o", "json")
		if err == nil {
			err = json.Unmarshal([]byte(out), &points)
		}
		if err == nil && len(points) == 0 {
			err = errors.New("there is none yet")
		}
		return err
	})
	l.in("understudy", "failover", "test", "web1")
	images, err := filepath.Glob(l.path("/var/lib/understudy/recovered/*/*.raw"))
	if err != nil || len(images) != 1 {
		l.t.Fatalf("the failover made %q, %v", images, err)
	}
	got, err := os.ReadFile(images[0])
	if err != nil {
		l.t.Fatal(err)
	}
	for i := range d.written.Load() {
		if block := got[i*blockSize : (i+1)*blockSize]; !bytes.Equal(block, content(uint64(i))) {
			l.t.Fatalf("write %d of %d is not in the image", i, d.written.Load())
		}
	}
	l.t.Logf("%d writes, all in the image", d.written.Load())
}

const (
	blockSize = 4096
	diskSize  = 256 << 20
)

// content is the block that write i leaves: no two are alike.
func content(i uint64) []byte {
	return bytes.Repeat(binary.LittleEndian.AppendUint64(nil, i+1), blockSize/8)
}

// aligned is memory that a direct write takes.
func aligned() []byte {
	b := make([]byte, 2*blockSize)
	off := blockSize - int(uintptr(unsafe.Pointer(&b[0]))%blockSize)
	return b[off : off+blockSize]
}
