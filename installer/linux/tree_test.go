package linux_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// tree is a Debian of its own, without a running systemd.
type tree struct {
	t    *testing.T
	root string
}

var debian = sync.OnceValues(func() (string, error) {
	tar := filepath.Join(scratch, "debian.tar")
	cmd := []string{"--quiet", "--variant=minbase", "--include=systemd,init-system-helpers", "bookworm", tar}
	_, err := try(context.Background(), "mmdebstrap", cmd...)
	return tar, err
})

func newTree(t *testing.T) *tree {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("must run as root: it makes a tree of Debian and installs packages in it")
	}
	tar, err := debian()
	if err != nil {
		t.Fatal(err)
	}
	tr := &tree{t, t.TempDir()}
	run(t, "tar", "-C", tr.root, "-xf", tar)
	return tr
}

func (tr *tree) path(name string) string { return filepath.Join(tr.root, name) }

// in runs a command inside.
func (tr *tree) in(args ...string) string {
	tr.t.Helper()
	return run(tr.t, "chroot", append([]string{tr.root, "env", "DEBIAN_FRONTEND=noninteractive"}, args...)...)
}

// install puts a version of a package in, as an operator does with a file.
func (tr *tree) install(name, version string) {
	tr.t.Helper()
	deb := fmt.Sprintf("%s_%s_amd64.deb", name, version)
	run(tr.t, "cp", filepath.Join(built(tr.t, version), deb), tr.path("/root"))
	tr.in("dpkg", "--install", "/root/"+deb)
	tr.delete("/root/" + deb)
}

func (tr *tree) delete(name string) {
	tr.t.Helper()
	if err := os.RemoveAll(tr.path(name)); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *tree) write(name, text string) {
	tr.t.Helper()
	if err := os.MkdirAll(filepath.Dir(tr.path(name)), 0o755); err != nil {
		tr.t.Fatal(err)
	}
	if err := os.WriteFile(tr.path(name), []byte(text), 0o600); err != nil {
		tr.t.Fatal(err)
	}
}

// expect checks what is there and what is not.
func (tr *tree) expect(when string, there, gone []string) {
	tr.t.Helper()
	for _, name := range there {
		if _, err := os.Lstat(tr.path(name)); err != nil {
			tr.t.Errorf("%s: %v", when, err)
		}
	}
	for _, name := range gone {
		if _, err := os.Lstat(tr.path(name)); err == nil {
			tr.t.Errorf("%s: %s is still there", when, name)
		}
	}
}

// files lists everything in the tree but what belongs to the package manager.
func (tr *tree) files() []string {
	tr.t.Helper()
	var all []string
	err := filepath.WalkDir(tr.root, func(path string, _ fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, tr.root)
		for _, own := range []string{"/var/lib/dpkg", "/var/lib/rpm", "/var/log", "/var/cache", "/root/.rpmdb"} {
			if name == own {
				return filepath.SkipDir
			}
		}
		all = append(all, name)
		return err
	})
	if err != nil {
		tr.t.Fatal(err)
	}
	return all
}

// added lists what is there and was not.
func (tr *tree) added(before []string) []string {
	return slices.DeleteFunc(tr.files(), func(name string) bool {
		_, was := slices.BinarySearch(before, name)
		return was
	})
}

// bpffs mounts a BPF file system of the tree's own: pins there are nobody else's.
func (tr *tree) bpffs() string {
	tr.t.Helper()
	dir := tr.path("/sys/fs/bpf")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tr.t.Fatal(err)
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, "mode=0700"); err != nil {
		tr.t.Fatalf("mounting a BPF file system: %v", err)
	}
	tr.t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			tr.t.Errorf("unmounting %s: %v", dir, err)
		}
	})
	return dir
}
