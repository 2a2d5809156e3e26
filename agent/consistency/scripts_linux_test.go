package consistency

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// script puts a shell script where the Quiescer looks for it.
func script(t testing.TB, q *Quiescer, name, body string) string {
	t.Helper()
	path := filepath.Join(q.Scripts, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestScriptsInOrder: --pre in order, --post in the other, also after a failure, for those
// that were called.
func TestScriptsInOrder(t *testing.T) {
	dir := scratch(t)
	q := quiescer(t, dir)
	trace := filepath.Join(dir, "trace")
	line := "echo $(basename $0) $1 >> " + trace + "; echo said by $(basename $0)"
	script(t, q, "consistency.d/20-b.sh", line)
	script(t, q, "consistency.d/10-a.sh", line)
	script(t, q, "scripts/customscript.sh", line)
	script(t, q, "consistency.d/10-a.txt", line)
	run := func() (Outcome, string) {
		t.Helper()
		os.Remove(trace)
		o := q.Run(t.Context(), Job{Scripts: true}, asks)
		got, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		return o, strings.Join(strings.Fields(string(got)), " ")
	}
	o, got := run()
	want := "customscript.sh --pre 10-a.sh --pre 20-b.sh --pre 20-b.sh --post 10-a.sh --post customscript.sh --post"
	if o.Problem != nil || got != want || !strings.Contains(o.Output, "said by 10-a.sh") {
		t.Errorf("%s (%+v), want %s", got, o, want)
	}

	failing := script(t, q, "consistency.d/10-a.sh", line+"; [ $1 = --post ]")
	o, got = run()
	want = "customscript.sh --pre 10-a.sh --pre 10-a.sh --post customscript.sh --post"
	if o.Problem == nil || !strings.Contains(o.Problem.Error(), failing) || got != want {
		t.Errorf("%s (%v), want %s", got, o.Problem, want)
	}
}

// TestScriptHangs: it is killed with its children at the deadline; nothing was frozen.
func TestScriptHangs(t *testing.T) {
	dir := scratch(t)
	q := quiescer(t, dir)
	d := newDisk(t, dir, "one", "ext4")
	pid := filepath.Join(dir, "pid")
	hanging := script(t, q, "consistency.d/hang.sh", "[ $1 = --post ] && exit; sleep 1000 & echo $! > "+pid+"; wait")
	began := time.Now()
	o := q.Run(t.Context(), Job{Disks: devices(d), Scripts: true, Deadline: time.Second}, asks)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	if o.Problem == nil || !strings.Contains(o.Problem.Error(), hanging) || d.frozen(t) {
		t.Errorf("outcome %+v", o)
	}
	child, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	for stat := "/proc/" + strings.TrimSpace(string(child)) + "/stat"; ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(stat)
		if err != nil || strings.Contains(string(b), ") Z ") {
			break
		}
		if time.Since(began) > 5*time.Second {
			t.Fatal("the script's child lives on")
		}
	}
}

// TestScriptsOfOthers: what others than root can change is not run as root.
func TestScriptsOfOthers(t *testing.T) {
	dir := scratch(t)
	ran := filepath.Join(dir, "ran")
	for name, spoil := range map[string]func(path string) error{
		"writable by its group":   func(p string) error { return os.Chmod(p, 0o775) },
		"of another user":         func(p string) error { return os.Chown(p, 65534, 0) },
		"in a writable directory": func(p string) error { return os.Chmod(filepath.Dir(p), 0o777) },
		"not executable":          func(p string) error { return os.Chmod(p, 0o644) },
		"a link to a writable file": func(p string) error {
			target := filepath.Join(dir, "target")
			if err := os.WriteFile(target, []byte("#!/bin/sh\ntouch "+ran), 0o755); err != nil {
				return err
			}
			if err := os.Chmod(target, 0o777); err != nil {
				return err
			}
			os.Remove(p)
			return os.Symlink(target, p)
		},
	} {
		t.Run(name, func(t *testing.T) {
			q := New(Options{Record: filepath.Join(dir, "frozen.json"), Scripts: t.TempDir()})
			path := script(t, q, "consistency.d/a.sh", "touch "+ran)
			if err := spoil(path); err != nil {
				t.Fatal(err)
			}
			o := q.Run(t.Context(), Job{Scripts: true}, asks)
			if o.Problem == nil || !strings.Contains(o.Problem.Error(), path) {
				t.Errorf("problem %v does not name %s", o.Problem, path)
			}
			if _, err := os.Stat(ran); err == nil {
				t.Error("it was run")
			}
		})
	}
}
