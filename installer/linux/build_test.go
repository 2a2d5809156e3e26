// Package linux_test installs the packages for real: into trees of Debian made for the
// purpose, with dpkg and rpm, and into ones whose systemd runs. About three minutes on two
// processors that are free, of which one goes for the tree.
package linux_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

const (
	repository = "../.."
	older      = "1.0.0"
	newer      = "1.0.1"
	epoch      = "SOURCE_DATE_EPOCH=1700000000"
)

// scratch lives as long as the tests: what several of them need is made once.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "packages-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

// built gives the directory with the packages of a version, built from this source.
func built(t *testing.T, version string) string {
	t.Helper()
	dir, err := builds[version]()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

var builds = map[string]func() (string, error){
	older: sync.OnceValues(func() (string, error) { return build(repository, older) }),
	newer: sync.OnceValues(func() (string, error) { return build(repository, newer) }),
}

func build(source, version string) (string, error) {
	out, err := os.MkdirTemp(scratch, version+"-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command(filepath.Join(source, "scripts/packages.sh"), version, out)
	cmd.Env = append(os.Environ(), epoch)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the packages %s: %w\n%s", version, err, text)
	}
	return out, nil
}

// TestReproducible: the same source in another place, with other times and modes of its
// files, gives the same bytes.
func TestReproducible(t *testing.T) {
	source := filepath.Join(t.TempDir(), "another", "place")
	if err := os.MkdirAll(source, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"go.mod", "go.sum", "LICENSE", "agent", "controlplane", "installer", "pkg", "scripts"} {
		run(t, "cp", "-r", filepath.Join(repository, name), source)
	}
	run(t, "chmod", "-R", "go-rwx", source)
	again, err := build(source, older)
	if err != nil {
		t.Fatal(err)
	}
	first, second := sums(t, built(t, older)), sums(t, again)
	if len(first) != 6 {
		t.Fatalf("%d packages, want deb and rpm of the agent for two processors and of the control plane for one", len(first))
	}
	for name, sum := range first {
		if second[name] != sum {
			t.Errorf("%s differs between two builds of one source", name)
		}
	}
	for name, sum := range sums(t, built(t, newer)) {
		if first[name] == sum {
			t.Errorf("%s is the same in two versions: the comparison sees nothing", name)
		}
	}
}

func sums(t *testing.T, dir string) map[string][sha256.Size]byte {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][sha256.Size]byte{}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		// The name without the version: what is compared is what is inside.
		name := string(bytes.ReplaceAll([]byte(f.Name()), []byte(newer), []byte(older)))
		got[name] = sha256.Sum256(b)
	}
	return got
}

// run executes a command that must succeed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := try(t.Context(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func try(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %q: %w\n%s", name, args, err, out)
	}
	return string(out), nil
}
