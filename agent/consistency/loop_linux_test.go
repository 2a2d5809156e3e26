package consistency

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These tests freeze real file systems of this kernel on loop devices, as root.

// asFreezer makes this test binary the freezer's process.
const asFreezer = "UNDERSTUDY_TEST_FREEZER"

// asAgent makes it an agent that freezes and then hangs; see agent.
const asAgent = "UNDERSTUDY_TEST_AGENT"

func TestMain(m *testing.M) {
	job, freezer := os.Getenv(asAgent), os.Getenv(asFreezer)
	switch {
	case freezer != "": // which an agent has started
		if err := Freeze(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case job != "":
		agent(job)
	default:
		os.Exit(m.Run())
	}
}

// must runs a command of the system and fails the test if it fails.
func must(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// scratch is a directory that the root file system, which no test freezes, holds.
func scratch(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for loop devices and mounts")
	}
	if err := os.MkdirAll("/tmp/consistency", 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp/consistency", "test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// disk is a loop device with a mounted file system.
type disk struct {
	image, path, dev, dir, fs string
}

func attach(t testing.TB, image string) string {
	t.Helper()
	path := must(t, "losetup", "--find", "--show", image)
	t.Cleanup(func() { must(t, "losetup", "--detach", path) })
	return path
}

// newDisk makes a disk with a mounted file system, its image in dir.
func newDisk(t testing.TB, dir, name, fs string) disk {
	t.Helper()
	d := disk{image: filepath.Join(dir, name+".img"), dir: filepath.Join(dir, name), fs: fs}
	size := map[string]string{"ext4": "16M", "vfat": "64M", "btrfs": "128M", "xfs": "320M"}[fs]
	must(t, "truncate", "--size", size, d.image)
	d.path = attach(t, d.image)
	d.dev = number(t, d.path)
	must(t, "mkfs."+fs, d.path)
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d.mount(t, d.dir)
	return d
}

func (d disk) mount(t testing.TB, dir string, options ...string) {
	t.Helper()
	must(t, "mount", append(options, d.path, dir)...)
	t.Cleanup(func() { // a freezer may be about to end
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			if err := unix.Unmount(dir, 0); err == nil {
				return
			} else if time.Since(began) > 10*time.Second {
				t.Errorf("umount %s: %v", dir, err)
				return
			}
		}
	})
}

// frozen asks the kernel, which freezes nothing twice.
func (d disk) frozen(t testing.TB) bool {
	t.Helper()
	fd, err := unix.Open(d.dir, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	switch err := unix.IoctlSetInt(fd, fiFreeze, 0); err {
	case unix.EBUSY:
		return true
	case nil:
		if err := unix.IoctlSetInt(fd, fiThaw, 0); err != nil {
			t.Fatal(err)
		}
	default:
		t.Fatal(err)
	}
	return false
}

// thawedAtTheEnd keeps a failed test from leaving the machine frozen. It is called before
// the file systems are unmounted.
func thawedAtTheEnd(t testing.TB, disks ...disk) {
	t.Helper()
	t.Cleanup(func() {
		for _, d := range disks {
			if d.frozen(t) {
				t.Errorf("%s was left frozen", d.dir)
				must(t, "fsfreeze", "--unfreeze", d.dir)
			}
		}
	})
}

// quiescer freezes with this test binary.
func quiescer(t testing.TB, dir string) *Quiescer {
	t.Helper()
	return New(Options{Freezer: []string{"/usr/bin/env", asFreezer + "=1", self(t)}, Record: filepath.Join(dir, "frozen.json"), Scripts: filepath.Join(dir, "etc")})
}

func self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func devices(disks ...disk) (devs []string) {
	for _, d := range disks {
		devs = append(devs, d.dev)
	}
	return devs
}

func number(t testing.TB, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
}

// elsewhere mounts a device in a mount namespace of its own until the function returned
// is called.
func elsewhere(t testing.TB, device, dir string) (end func()) {
	t.Helper()
	at := filepath.Join(dir, "elsewhere")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-c", "mount \"$0\" \"$1\" && echo mounted && read wait", device, at)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if said, err := bufio.NewReader(out).ReadString('\n'); said != "mounted\n" {
		t.Fatalf("%q, %v", said, err)
	}
	return func() { in.Close(); _ = cmd.Wait() }
}
