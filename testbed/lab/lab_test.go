package lab

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be the lab that is interrupted.
func TestMain(m *testing.M) {
	if os.Getenv("LAB_TO_INTERRUPT") != "" {
		furnish()
		return
	}
	os.Exit(m.Run())
}

func open(t *testing.T) *Lab {
	t.Helper()
	l, err := New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.CloseOnSignal()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left := Leftovers(l.Dir); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return l
}

// newMachine is a formatted, mounted disk of each file system, as small as XFS permits.
func newMachine(ctx context.Context, l *Lab) ([]*Disk, error) {
	var disks []*Disk
	for _, fs := range []string{Ext4, XFS, Btrfs} {
		d, err := l.NewDisk(ctx, fs, 320<<20)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(d.Format(ctx, fs), d.MountUp(ctx, false)); err != nil {
			return nil, err
		}
		disks = append(disks, d)
	}
	return disks, nil
}

// furnish opens a lab with everything in it, says where, and waits to be killed.
func furnish() {
	ctx := context.Background()
	l, err := New(ctx)
	if err != nil {
		panic(err)
	}
	l.CloseOnSignal()
	disks, err := newMachine(ctx, l)
	if err != nil {
		panic(err)
	}
	ledger, err := l.NewLedger()
	if err != nil {
		panic(err)
	}
	if err := errors.Join(NewWorkload(ledger, disks...).Start(l), l.NewProcess("sleeper", "sleep", "1000").Start()); err != nil {
		panic(err)
	}
	os.Stdout.WriteString(l.Dir + "\n")
	time.Sleep(time.Minute)
}

func TestNothingIsLeftBehind(t *testing.T) {
	for name, s := range map[string]syscall.Signal{"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM, "SIGKILL": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), "LAB_TO_INTERRUPT=1")
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			dir := strings.TrimSpace(line)
			// The sleeper, three file systems and the lab's own, three loop devices.
			if left := Leftovers(dir); len(left) != 8 {
				t.Fatalf("before: %v", left)
			}
			if err := cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if s == syscall.SIGKILL { // nobody could clean up: the next lab does
				if left := Leftovers(dir); len(left) == 0 {
					t.Fatal("nothing was left, so this proves nothing")
				}
				open(t)
			}
			if left := Leftovers(dir); len(left) > 0 {
				t.Errorf("after: %v", left)
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %v", dir, err)
			}
		})
	}
}

// TestADiskInMemoryGoesWithItsLab: without its tmpfs nobody could tell whose it was.
func TestADiskInMemoryGoesWithItsLab(t *testing.T) {
	l, err := New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.NewDisk(t.Context(), filepath.Join("run", "disk"), 16<<20)
	if err != nil {
		t.Fatal(errors.Join(err, l.Close()))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	backing, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(d.Device), "loop/backing_file"))
	if err == nil && strings.Contains(string(backing), "disk") && !strings.Contains(string(backing), prefix) {
		t.Errorf("%s is still attached to %s", d.Device, backing)
	}
}

func TestALivingLabIsNotSwept(t *testing.T) {
	l := open(t)
	p := l.NewProcess("sleeper", "sleep", "1000")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	open(t)
	if p.PID() == 0 {
		t.Error("another lab killed this one's process")
	}
}

func TestKeepLogs(t *testing.T) {
	l := open(t)
	p := l.NewProcess("echo", "echo", "some words")
	if err := errors.Join(p.Start(), p.Wait(t.Context())); err != nil {
		t.Fatal(err)
	}
	kept, err := l.CloseKeepingLogs()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(kept)
	log, err := os.ReadFile(filepath.Join(kept, "echo.log"))
	if err != nil || !strings.Contains(string(log), "some words") {
		t.Errorf("kept log: %q, %v", log, err)
	}
}

func TestProcessLives(t *testing.T) {
	l := open(t)
	p := l.NewProcess("sleeper", "sleep", "1000")
	for range 2 {
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		if p.Start() == nil {
			t.Fatal("started twice")
		}
		p.Kill()
		if p.PID() != 0 || p.Err() == nil || !strings.Contains(p.Err().Error(), "killed") {
			t.Fatalf("after kill: pid %d, %v", p.PID(), p.Err())
		}
	}
	if err := p.Signal(syscall.SIGTERM); err == nil {
		t.Error("signalled what does not run")
	}
	if n := strings.Count(p.Tail(), "--- "); n != 2 {
		t.Errorf("%d lives in its log, want 2:%s", n, p.Tail())
	}
}

func TestUntilSaysWhatWasMissing(t *testing.T) {
	err := Until(t.Context(), 10*time.Millisecond, "answer", func() (bool, error) { return false, errors.New("still thinking") })
	if err == nil || !strings.Contains(err.Error(), "no answer within") || !strings.Contains(err.Error(), "still thinking") {
		t.Error(err)
	}
}
