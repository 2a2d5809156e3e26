// Package lab is a machine room out of real parts: loop disks with real file systems,
// real processes that are killed with kill -9, a workload whose acknowledged values
// are written down elsewhere, and the judgement whether a recovered disk holds them.
//
// Everything a lab makes lies below one directory or carries that directory's name, so
// that cleaning up means looking at what there is, not remembering what was done: the
// same code removes a lab's own things and what an earlier, interrupted run left.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// prefix names every lab's directory; it is what Sweep looks for.
const prefix = "understudy-lab-"

// Lab is one machine room. Its methods are safe for concurrent use.
type Lab struct {
	// Dir holds all files of the lab: disks, logs, the control plane's data.
	Dir string

	lock *os.File // flocked while the lab lives

	mu   sync.Mutex
	undo []func()
}

// New opens a lab in a new directory below the system's temporary one, after removing
// what interrupted labs left behind. Close it.
func New(ctx context.Context) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab attaches loop devices and mounts file systems: run it as root")
	}
	guard, err := flock(filepath.Join(os.TempDir(), prefix+"guard"), true)
	if err != nil {
		return nil, err
	}
	defer guard.Close()
	if err := sweep(ctx, os.TempDir()); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return nil, err
	}
	l := &Lab{Dir: dir}
	if l.lock, err = flock(filepath.Join(dir, "lock"), false); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return l, l.mountRun(ctx)
}

// mountRun gives the lab a memory file system, as /run is one.
func (l *Lab) mountRun(ctx context.Context) error {
	if err := os.Mkdir(l.RunDir(), 0o700); err != nil {
		return errors.Join(err, l.Close())
	}
	if _, err := run(ctx, "mount", "-t", "tmpfs", "understudy-lab", l.RunDir()); err != nil {
		return errors.Join(err, l.Close())
	}
	return nil
}

// RunDir is on a tmpfs, as an agent's memory journal wants it.
func (l *Lab) RunDir() string { return l.Path("run") }

// Instance names an agent's capture in the kernel so that Leftovers recognises it.
func (l *Lab) Instance(name string) string { return filepath.Base(l.Dir) + "-" + name }

// Path is a path inside the lab's directory.
func (l *Lab) Path(elem ...string) string {
	return filepath.Join(append([]string{l.Dir}, elem...)...)
}

// OnClose has f called by Close before anything is removed, the newest first.
func (l *Lab) OnClose(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.undo = append(l.undo, f)
}

// Close ends the lab's processes and removes its mounts, loop devices and files. The
// error names what could not be removed. A second Close does nothing.
func (l *Lab) Close() error {
	l.halt()
	if l.lock == nil {
		return nil
	}
	err := clear(l.Dir)
	if err == nil {
		err = os.RemoveAll(l.Dir)
	}
	l.lock.Close()
	l.lock = nil
	return err
}

// CloseKeepingLogs is Close, but the directory with the logs stays. It returns it.
func (l *Lab) CloseKeepingLogs() (string, error) {
	l.halt()
	if l.lock == nil {
		return "", nil
	}
	kept := strings.Replace(l.Dir, prefix, "understudy-logs-", 1)
	err := clear(l.Dir)
	if err == nil {
		err = keepLogs(l.Dir, kept)
	}
	l.lock.Close()
	l.lock = nil
	return kept, err
}

func (l *Lab) halt() {
	l.mu.Lock()
	undo := l.undo
	l.undo = nil
	l.mu.Unlock()
	for i := len(undo) - 1; i >= 0; i-- {
		undo[i]()
	}
}

// keepLogs moves the logs and the ledger to kept and removes the rest: the disks would
// fill a machine that runs the tests often.
func keepLogs(dir, kept string) error {
	if err := os.MkdirAll(kept, 0o755); err != nil {
		return err
	}
	for _, pattern := range []string{"*.log", "*.txt"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := os.Rename(name, filepath.Join(kept, filepath.Base(name))); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(dir)
}

// run executes a command and returns what it printed. The error holds its complaint.
func run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()+stdout.String()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// Until asks again and again until the answer is done, and returns its error, or until
// the time is over; the error then holds the last answer's. Nothing is ever waited for
// by a sleep alone.
func Until(ctx context.Context, limit time.Duration, what string, ready func() (done bool, err error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no %s within %s", what, limit))
	defer cancel()
	for {
		done, err := ready()
		if done {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
