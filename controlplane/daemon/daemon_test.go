package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sleeper is a program of this directory that is ready when its file is there.
func sleeper(t *testing.T, dir string) (Program, func() bool) {
	t.Helper()
	ready := filepath.Join(dir, "ready")
	return Program{Path: "/bin/sh", Args: []string{"-c", "trap '' HUP; echo hello; >" + ready + "; while :; do sleep 0.1; done", "sh", dir + "/"}, Log: filepath.Join(dir, "log")},
		func() bool { _, err := os.Stat(ready); return err == nil }
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

// TestStarter is a control plane that starts a program, says so and waits for its end.
func TestStarter(t *testing.T) {
	dir := os.Getenv("DAEMON_TEST_DIR")
	if dir == "" {
		t.Skip("only for TestProgramOutlivesItsStarter")
	}
	p, ready := sleeper(t, dir)
	if err := Start(t.Context(), p, ready); err != nil {
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
	found := Find(dir)
	if len(found) != 1 {
		t.Fatalf("found %v, want the one that was started", found)
	}
	if err := End(t.Context(), dir, "another-program", 0); err != nil || len(Find(dir)) != 1 {
		t.Fatalf("%v: a program of another name is not to be ended; left: %v", err, Find(dir))
	}
	if err := End(t.Context(), dir, shell(t), time.Minute); err != nil || len(Find(dir)) != 0 {
		t.Fatalf("%v, left: %v", err, Find(dir))
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
	p, _ := sleeper(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := Start(ctx, p, func() bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err := End(t.Context(), dir, shell(t), 0); err != nil || len(Find(dir)) != 0 {
		t.Fatal(err, Find(dir))
	}
}

// TestEndKillsWhatDoesNotListen: a program that ignores SIGTERM holds a clean-up up for
// no longer than its grace.
func TestEndKillsWhatDoesNotListen(t *testing.T) {
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready")
	p := Program{Path: "/bin/sh", Args: []string{"-c", "trap '' TERM; >" + ready + "; while :; do sleep 0.1; done", dir + "/"}, Log: filepath.Join(dir, "log")}
	if err := Start(t.Context(), p, func() bool { _, err := os.Stat(ready); return err == nil }); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := End(t.Context(), dir, shell(t), 500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 500*time.Millisecond || len(Find(dir)) != 0 {
		t.Errorf("after %s, left: %v", took, Find(dir))
	}
}

func TestFindTakesNoOtherDirectory(t *testing.T) {
	dir := t.TempDir()
	p, ready := sleeper(t, dir)
	if err := Start(t.Context(), p, ready); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := End(context.Background(), dir, shell(t), 0); err != nil {
			t.Error(err)
		}
	})
	if other := dir[:len(dir)-1]; len(Find(other)) != 0 { // .../00 is no parent of .../001
		t.Errorf("%s is not the directory of %v", other, Find(other))
	}
	for _, pid := range Find(dir) {
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err != nil {
			t.Error(err)
		}
	}
}
