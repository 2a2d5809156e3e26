package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sleeper is a program that does nothing and starts none, which cannot be found twice.
func sleeper(t *testing.T, dir string) Program {
	t.Helper()
	mark := filepath.Join(dir, "mark")
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return Program{Path: "/usr/bin/tail", Args: []string{"-f", mark}, Log: filepath.Join(dir, "log")}
}

// shell is what /bin/sh is called once it runs.
func shell(t *testing.T) string {
	t.Helper()
	exe, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Base(exe)
}

func find(t *testing.T, dir string) []int {
	t.Helper()
	return Find(filepath.Join(dir, "mark"), "tail")
}

// TestStarter is a control plane that starts a program, says so and waits for its end.
func TestStarter(t *testing.T) {
	dir := os.Getenv("DAEMON_TEST_DIR")
	if dir == "" {
		t.Skip("only for TestProgramOutlivesItsStarter")
	}
	if err := Start(t.Context(), sleeper(t, dir), func() bool { return true }); err != nil {
		t.Fatal(err)
	}
	fmt.Println("started")
	time.Sleep(time.Hour)
}

// TestProgramOutlivesItsStarter: killed with its whole process group, as a terminal or a
// service manager that ends a process does.
func TestProgramOutlivesItsStarter(t *testing.T) {
	dir := t.TempDir()
	starter := exec.Command(os.Args[0], "-test.run=^TestStarter$")
	starter.Env = append(os.Environ(), "DAEMON_TEST_DIR="+dir)
	starter.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := starter.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "started\n" {
		t.Fatal(line, err)
	}
	if err := syscall.Kill(-starter.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = starter.Wait() // it was killed
	found := find(t, dir)
	if len(found) != 1 {
		t.Fatalf("found %v, want the one that was started", found)
	}
	if err := End(t.Context(), dir+"/mark", "another-program", 0); err != nil || len(find(t, dir)) != 1 {
		t.Fatalf("%v: a program of another name is not to be ended; left: %v", err, find(t, dir))
	}
	if err := End(t.Context(), dir+"/mark", "tail", time.Minute); err != nil || len(find(t, dir)) != 0 {
		t.Fatalf("%v, left: %v", err, find(t, dir))
	}
}

func TestStartTellsWhyAProgramEnded(t *testing.T) {
	dir := t.TempDir()
	p := Program{Path: "/bin/sh", Args: []string{"-c", "echo no such disk >&2; exit 3"}, Log: filepath.Join(dir, "log")}
	err := Start(t.Context(), p, func() bool { return false })
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "no such disk") {
		t.Fatal(err)
	}
}

func TestStartEndsWhatDoesNotGetReady(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := Start(ctx, sleeper(t, dir), func() bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err := End(t.Context(), dir+"/mark", "tail", 0); err != nil || len(find(t, dir)) != 0 {
		t.Fatal(err, find(t, dir))
	}
}

// TestEndKillsWhatDoesNotListen: a program that ignores SIGTERM holds a clean-up up for
// no longer than its grace.
func TestEndKillsWhatDoesNotListen(t *testing.T) {
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready")
	p := Program{Path: "/bin/sh", Args: []string{"-c", "trap '' TERM; >" + ready + "; while :; do sleep 0.1; done", dir + "/mark"}, Log: filepath.Join(dir, "log")}
	if err := Start(t.Context(), p, func() bool { _, err := os.Stat(ready); return err == nil }); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := End(t.Context(), dir+"/mark", shell(t), 500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 500*time.Millisecond || len(Find(dir+"/mark", shell(t))) != 0 {
		t.Errorf("after %s, left: %v", took, Find(dir+"/mark", shell(t)))
	}
}

// TestMarkStandsAlone: of replicas whose directories lie in one another, each is found by
// its own mark only.
func TestMarkStandsAlone(t *testing.T) {
	for line, want := range map[string]bool{
		"qemu\x00-qmp\x00unix:/r/qmp,server=on\x00": true,
		"understudy\x00--listen\x00unix:/r/qmp\x00": true,
		"understudy\x00/r/qmp":                      true,
		"qemu\x00unix:/r/inner/qmp,server=on\x00":   false,
		"qemu\x00unix:/outer/r/qmp,server=on\x00":   false,
		"qemu\x00unix:/r/qmp2\x00":                  false,
		"qemu\x00unix:/r/qmp/x\x00":                 false,
		"vi\x00/outer/r/qmp\x00/r/qmp\x00":          true,
		"":                                          false,
	} {
		if got := marked(line, "/r/qmp"); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}
