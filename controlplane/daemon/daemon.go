// Package daemon starts programs that outlive the control plane: a replica must not lose
// its power because its control plane is restarted or killed.
//
// Nothing but the operating system knows of them. Each program has the path of a file of
// its own on its command line, its mark, and is found again by that: a process id that
// somebody wrote down may be somebody else's by now, and one that was never written down,
// because the control plane died first, is found all the same.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Program is what to start.
type Program struct {
	Path string
	Args []string
	Log  string // a file that what it prints is appended to
}

// tail is how much of a log is worth telling, in bytes.
const tail = 1000

// Start starts the program in a session of its own and waits until it is ready. A program
// that ends before is an error with what it printed; one that is not ready when the
// context ends is ended.
func Start(ctx context.Context, p Program, ready func() bool) error {
	name := filepath.Base(p.Path)
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("the log of %s: %w", name, err)
	}
	defer log.Close()
	cmd := exec.Command(p.Path, p.Args...) //nolint:noctx // it outlives every context here
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start %s: %w", name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // for as long as both live: no zombie is left
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case err := <-ended:
			return fmt.Errorf("%s ended at once (%w): %s", name, errors.Join(err), Tail(p.Log))
		case <-ctx.Done():
			_ = cmd.Process.Kill() // it may have ended in this moment
			return fmt.Errorf("%s does not get ready: %w: %s", name, context.Cause(ctx), Tail(p.Log))
		case <-tick.C:
		}
	}
	return nil
}

// Tail is the end of a log, in one line.
func Tail(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return "it has no log"
	}
	return strings.Join(strings.Fields(string(b[max(0, len(b)-tail):])), " ")
}

// Find lists the processes of this name that have the mark on their command line, as an
// argument or as a value in one, besides this process.
func Find(mark, program string) []int {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline") // fails for a bad pattern only
	var found []int
	for _, line := range lines {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(line)))
		if err != nil || pid == os.Getpid() {
			continue
		}
		// One that has ended meanwhile, or waits to be reaped, has none.
		if b, err := os.ReadFile(line); err == nil && marked(string(b), mark) && called(pid, program) {
			found = append(found, pid)
		}
	}
	return found
}

// marked reports whether the mark stands alone on a command line: not as the end of a
// longer path, and not as the beginning of one.
func marked(line, mark string) bool {
	for {
		before, after, found := strings.Cut(line, mark)
		if !found {
			return false
		}
		begins := before == "" || strings.ContainsRune("\x00:=", rune(before[len(before)-1]))
		ends := after == "" || strings.ContainsRune("\x00,", rune(after[0]))
		if begins && ends {
			return true
		}
		line = after
	}
}

// called reports whether the process is a program of this name. An upgrade replaces the
// file under one that runs.
func called(pid int, program string) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.TrimSuffix(filepath.Base(exe), " (deleted)") == program
}

// End asks those processes to end, has the kernel end those that do not within the grace,
// and returns when none is left.
func End(ctx context.Context, mark, program string, grace time.Duration) error {
	signal, patience := syscall.SIGTERM, time.Now().Add(grace)
	for {
		left := Find(mark, program)
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(patience) {
			signal = syscall.SIGKILL
		}
		for _, pid := range left {
			if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("cannot end %s, process %d: %w", program, pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s, processes %v, does not end: %w", program, left, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
