package consistency

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// writer writes numbers to a file system, each synced before it counts as acknowledged.
type writer struct {
	acked atomic.Int64
	stop  chan struct{}
	done  chan error
}

func startWriter(t testing.TB, d disk) *writer {
	w := &writer{stop: make(chan struct{}), done: make(chan error, 1)}
	go func() { w.done <- w.run(filepath.Join(d.dir, "values")) }()
	t.Cleanup(func() {
		close(w.stop)
		if err := <-w.done; err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *writer) run(path string) error {
	for n := int64(1); ; n++ {
		select {
		case <-w.stop:
			return nil
		default:
		}
		f, err := os.Create(path + ".new")
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(f, n)
		if err := errors.Join(err, f.Sync(), f.Close(), os.Rename(path+".new", path)); err != nil {
			return err
		}
		dir, err := os.Open(filepath.Dir(path))
		if err != nil {
			return err
		}
		if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
			return err
		}
		w.acked.Store(n)
	}
}

// TestFrozenAtTheMark: three file systems under writers. What their disks hold while the
// point is marked needs no journal replayed, holds every acknowledged value and what the
// script had set, and nobody gets to write until it is over.
func TestFrozenAtTheMark(t *testing.T) {
	dir := scratch(t)
	q := quiescer(t, dir)
	disks := []disk{newDisk(t, dir, "one", "ext4"), newDisk(t, dir, "two", "xfs"), newDisk(t, dir, "three", "btrfs")}
	var set strings.Builder
	for _, d := range disks {
		fmt.Fprintf(&set, "echo $1 $UNDERSTUDY_POINT > %s/script\n", d.dir)
	}
	script(t, q, "consistency.d/50-values.sh", set.String())
	var writers []*writer
	for _, d := range disks {
		writers = append(writers, startWriter(t, d))
	}
	thawedAtTheEnd(t, disks...)
	time.Sleep(300 * time.Millisecond) // under load, not before it

	var before, after []int64
	o := q.Run(t.Context(), Job{Name: "nightly", Disks: devices(disks...), Scripts: true}, func(_ context.Context, still func() error) error {
		for i, d := range disks {
			if !d.frozen(t) {
				t.Errorf("%s is not frozen", d.dir)
			}
			before = append(before, writers[i].acked.Load())
			must(t, "cp", "--sparse=always", d.image, d.image+".copy")
		}
		time.Sleep(200 * time.Millisecond)
		for _, w := range writers {
			after = append(after, w.acked.Load())
		}
		return still()
	})
	if o.Problem != nil || len(o.Mounts) != 3 || o.Frozen <= 0 {
		t.Fatalf("outcome %+v", o)
	}
	for i, d := range disks {
		// One that was synced may be acknowledged only now; none was written.
		if after[i] > before[i]+1 || before[i] == 0 {
			t.Errorf("%s: %d values acknowledged before, %d during the freeze", d.fs, before[i], after[i])
		}
		judge(t, d, before[i], "--pre nightly")
	}
	t.Logf("frozen for %v, acknowledged %v", o.Frozen, before)
}

// judge looks at the copy of a disk that was taken while it was frozen.
func judge(t *testing.T, d disk, acked int64, scripted string) {
	t.Helper()
	c := disk{image: d.image + ".copy", dir: d.dir + ".copy", fs: d.fs}
	c.path = attach(t, c.image)
	options := map[string][]string{"ext4": {"-o", "ro,noload"}, "xfs": {"-o", "ro,norecovery,nouuid"}, "btrfs": {"-o", "ro,rescue=nologreplay"}}
	switch d.fs {
	case "ext4":
		if out := must(t, "dumpe2fs", "-h", c.path); strings.Contains(out, "needs_recovery") {
			t.Error("the journal of ext4 must be replayed")
		}
		must(t, "e2fsck", "-f", "-n", c.path)
	case "btrfs":
		// Two file systems of one id are not mounted at once.
		if out := must(t, "btrfs", "inspect-internal", "dump-super", c.path); !strings.Contains(strings.Join(strings.Fields(out), " "), "log_root 0") {
			t.Errorf("the log of btrfs must be replayed:\n%s", out)
		}
		must(t, "btrfstune", "-f", "-u", c.path)
	}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c.mount(t, c.dir, options[d.fs]...)
	got, err := os.ReadFile(filepath.Join(c.dir, "values"))
	if n, _ := strconv.ParseInt(string(got), 10, 64); err != nil || n < acked {
		t.Errorf("%s holds value %q (%v), %d was acknowledged", d.fs, got, err, acked)
	}
	if got, err := os.ReadFile(filepath.Join(c.dir, "script")); strings.TrimSpace(string(got)) != scripted {
		t.Errorf("%s: the script set %q (%v), want %q", d.fs, got, err, scripted)
	}
}

// agentJob is what a process in the agent's place does.
type agentJob struct {
	Job     Job
	Options Options
}

// agent freezes, says so, and hangs.
func agent(text string) {
	var j agentJob
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		panic(err)
	}
	o := New(j.Options).Run(context.Background(), j.Job, func(context.Context, func() error) error {
		fmt.Println("marked")
		select {}
	})
	fmt.Println(o)
	os.Exit(0)
}

// startAgent returns when the agent has frozen everything.
func startAgent(t *testing.T, q *Quiescer, j Job) *exec.Cmd {
	t.Helper()
	b, err := json.Marshal(agentJob{j, q.Options})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self(t))
	cmd.Env = append(os.Environ(), asAgent+"="+string(b))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "marked\n" {
		t.Fatalf("the agent says %q (%v)", line, err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return cmd
}

// untilThawed returns how long it took.
func untilThawed(t *testing.T, limit time.Duration, disks ...disk) time.Duration {
	t.Helper()
	began := time.Now()
	for _, d := range disks {
		for d.frozen(t) {
			if time.Since(began) > limit {
				t.Fatalf("%s is still frozen after %v", d.dir, limit)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return time.Since(began)
}

// freezerOf finds the process that the agent has started.
func freezerOf(t *testing.T, agent int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", agent, agent))
	if err != nil || len(strings.Fields(string(b))) == 0 {
		// Any of its threads may have started it.
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", agent))
		for _, f := range files {
			if b, err = os.ReadFile(f); err == nil && len(strings.Fields(string(b))) > 0 {
				break
			}
		}
	}
	pid, err := strconv.Atoi(strings.Fields(string(b) + " 0")[0])
	if err != nil || pid == 0 {
		t.Fatalf("the agent %d has no child: %q (%v)", agent, b, err)
	}
	return pid
}

// TestThawedWithoutTheAgent: whatever happens to the agent or the freezer.
func TestThawedWithoutTheAgent(t *testing.T) {
	const deadline = 3 * time.Second
	for name, c := range map[string]struct {
		harm  func(t *testing.T, agent *exec.Cmd)
		limit time.Duration
	}{
		"killed":  {func(t *testing.T, a *exec.Cmd) { _ = a.Process.Kill() }, time.Second},
		"stopped": {func(t *testing.T, a *exec.Cmd) { _ = a.Process.Signal(syscall.SIGSTOP) }, deadline + 500*time.Millisecond},
		"hanging": {func(*testing.T, *exec.Cmd) {}, deadline + 500*time.Millisecond},
		"told to end with its freezer": {func(t *testing.T, a *exec.Cmd) {
			_ = syscall.Kill(freezerOf(t, a.Process.Pid), syscall.SIGTERM)
		}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			dir := scratch(t)
			q := quiescer(t, dir)
			disks := []disk{newDisk(t, dir, "one", "ext4"), newDisk(t, dir, "two", "xfs")}
			thawedAtTheEnd(t, disks...)
			a := startAgent(t, q, Job{Disks: devices(disks...), Deadline: deadline})
			for _, d := range disks {
				if !d.frozen(t) {
					t.Fatalf("%s is not frozen: this proves nothing", d.dir)
				}
			}
			c.harm(t, a)
			t.Logf("thawed after %v", untilThawed(t, c.limit, disks...))
		})
	}
}

// TestNextAgentThaws: the agent and its freezer are killed at once, as by a service
// manager that ends a whole group.
func TestNextAgentThaws(t *testing.T) {
	dir := scratch(t)
	q := quiescer(t, dir)
	disks := []disk{newDisk(t, dir, "one", "ext4"), newDisk(t, dir, "two", "xfs")}
	thawedAtTheEnd(t, disks...)
	a := startAgent(t, q, Job{Disks: devices(disks...), Deadline: time.Minute})
	if err := syscall.Kill(freezerOf(t, a.Process.Pid), syscall.SIGSTOP); err != nil { // so that it cannot thaw when the agent goes
		t.Fatal(err)
	}
	freezer := freezerOf(t, a.Process.Pid)
	_ = a.Process.Kill()
	_ = syscall.Kill(freezer, syscall.SIGKILL)
	_ = a.Wait()
	for _, d := range disks {
		if !d.frozen(t) {
			t.Fatalf("%s is not frozen: this proves nothing", d.dir)
		}
	}
	thawed, err := q.Recover()
	if err != nil || len(thawed) != 2 {
		t.Errorf("thawed %v, %v", thawed, err)
	}
	untilThawed(t, 0, disks...)
	if thawed, err := q.Recover(); err != nil || len(thawed) != 0 {
		t.Errorf("the record is still there: %v, %v", thawed, err)
	}
}

// TestFreezerKilled: the agent sees it, thaws, and the point is not consistent.
func TestFreezerKilled(t *testing.T) {
	dir := scratch(t)
	q := quiescer(t, dir)
	d := newDisk(t, dir, "one", "ext4")
	thawedAtTheEnd(t, d)
	o := q.Run(t.Context(), Job{Disks: devices(d)}, func(_ context.Context, still func() error) error {
		if err := syscall.Kill(freezerOf(t, os.Getpid()), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		return still()
	})
	if o.Problem == nil {
		t.Error("a point without its freezer counts as application-consistent")
	}
	if d.frozen(t) {
		t.Error("frozen after Run has returned")
	}
	if o = q.Run(t.Context(), Job{Disks: devices(d)}, asks); o.Problem != nil {
		t.Errorf("the next point: %v", o.Problem)
	}
}

// asks marks a point as the pipeline does.
func asks(_ context.Context, still func() error) error { return still() }

// TestSomebodyElseFreezes: what others froze is neither taken for ours nor thawed, and
// what they thaw is noticed.
func TestSomebodyElseFreezes(t *testing.T) {
	dir := scratch(t)
	q := quiescer(t, dir)
	disks := []disk{newDisk(t, dir, "one", "ext4"), newDisk(t, dir, "two", "xfs")}
	thawedAtTheEnd(t, disks...)
	job := Job{Disks: devices(disks...)}

	o := q.Run(t.Context(), job, func(_ context.Context, still func() error) error {
		must(t, "fsfreeze", "--unfreeze", disks[0].dir)
		return still()
	})
	if o.Problem == nil || !strings.Contains(o.Problem.Error(), disks[0].dir) {
		t.Errorf("thawed by somebody else: %v", o.Problem)
	}
	untilThawed(t, 0, disks...)

	must(t, "fsfreeze", "--freeze", disks[1].dir)
	o = q.Run(t.Context(), job, asks)
	if o.Problem == nil || !strings.Contains(o.Problem.Error(), disks[1].dir) {
		t.Errorf("frozen by somebody else: %v", o.Problem)
	}
	if !disks[1].frozen(t) {
		t.Error("somebody else's freeze was undone")
	} else {
		must(t, "fsfreeze", "--unfreeze", disks[1].dir)
	}
}

// TestCannotFreeze: vfat knows no freezing and no journal; it is synced and named.
func TestCannotFreeze(t *testing.T) {
	if known, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(known), "\tvfat\n") {
		t.Skip("this kernel has no vfat, nor another file system that cannot be frozen")
	}
	dir := scratch(t)
	q := quiescer(t, dir)
	d := newDisk(t, dir, "efi", "vfat")
	o := q.Run(t.Context(), Job{Disks: devices(d)}, asks)
	if o.Problem != nil || len(o.Notes) != 1 || !strings.Contains(o.Notes[0], d.dir) {
		t.Errorf("outcome %+v", o)
	}
}

// TestHoldSpansTheFreeze: the agent is quiet before anything is frozen and until all of it
// is thawed.
func TestHoldSpansTheFreeze(t *testing.T) {
	dir := scratch(t)
	q := quiescer(t, dir)
	d := newDisk(t, dir, "one", "ext4")
	thawedAtTheEnd(t, d)
	var seen []string
	note := func(what string) { seen = append(seen, fmt.Sprintf("%s frozen=%v", what, d.frozen(t))) }
	job := Job{Disks: devices(d), Hold: func() func() { note("hold"); return func() { note("release") } }}
	q.Run(t.Context(), job, func(_ context.Context, still func() error) error { note("mark"); return still() })
	if got := strings.Join(seen, ", "); got != "hold frozen=false, mark frozen=true, release frozen=false" {
		t.Error(got)
	}
}
