// Package qemu brings machines up on the control plane's own host: qemu, with KVM where
// the host has it.
//
// A replica is a process that does not belong to the control plane (package daemon). All
// that is known of it lies in its directory: the sockets by which it is controlled, what
// it printed, and how it was started. Its disks are those that somebody serves over NBD.
package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/understudy-dr/understudy/controlplane/daemon"
	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Options say what the host has. The zero Options find out.
type Options struct {
	Emulate bool   // without KVM, also where the host has it
	Program string // qemu's; empty: where distributions have it
	Code    string // UEFI's program; empty: where distributions have it
	Vars    string // UEFI's variables, as they are in a new machine
}

// Compute implements failover.Compute.
type Compute struct {
	emulate       bool
	program       string
	code, vars    string
	missing, uefi error // why no machine, or none with UEFI, can be brought up
}

// Where distributions have qemu, and pairs of UEFI's program and variables.
var (
	programs  = []string{"qemu-system-x86_64", "/usr/libexec/qemu-kvm"}
	firmwares = [][2]string{
		{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
		{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
		{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
	}
)

const (
	startLimit = 30 * time.Second // until the control socket answers
	stopGrace  = 5 * time.Second
	maxConsole = 256 << 10 // bytes of it that anybody looks at
	maxBeat    = 4096
)

// New finds out what the host has. What is missing is said when a machine is to boot.
func New(o Options) *Compute {
	c := &Compute{emulate: o.Emulate, code: o.Code, vars: o.Vars}
	names := programs
	if o.Program != "" {
		names = []string{o.Program}
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			c.program = path
			break
		}
	}
	if c.program == "" {
		c.missing = problem.New(problem.Conflict, "apt-get install qemu-system-x86, or dnf install qemu-kvm", "there is no qemu on the control plane's host")
	}
	for _, f := range firmwares {
		if _, err := os.Stat(f[0]); err == nil && c.code == "" {
			c.code, c.vars = f[0], f[1]
		}
	}
	if c.code == "" {
		c.uefi = problem.New(problem.Conflict, "apt-get install ovmf, or dnf install edk2-ovmf", "the machine boots by UEFI, and there is no OVMF on the control plane's host")
	}
	return c
}

func (c *Compute) accelerators() []string {
	if c.emulate || !usable("/dev/kvm") {
		return []string{"-accel", "tcg,thread=multi"}
	}
	return []string{"-accel", "kvm", "-accel", "tcg,thread=multi"}
}

func usable(device string) bool {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

// Boot implements failover.Compute.
func (c *Compute) Boot(ctx context.Context, r failover.Replica) (failover.Powered, error) {
	var state failover.Powered
	if c.missing != nil {
		return state, c.missing
	}
	if r.Firmware == failover.UEFI && c.uefi != nil {
		return state, c.uefi
	}
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return state, fmt.Errorf("the replica's directory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if c.found(ctx, r.Dir) {
		return readState(r.Dir)
	}
	// One that does not answer is one that was starting when its control plane died, or
	// hangs: nothing depends on it yet, or any more.
	if err := c.end(ctx, r.Dir); err != nil {
		return state, err
	}
	state, err := prepare(r, c.vars)
	if err != nil {
		return state, err
	}
	args, err := c.arguments(r, state.Ports)
	if err != nil {
		return state, problem.New(problem.Invalid, "choose another bus", "machine %s cannot be brought up: %v", r.Name, err)
	}
	err = daemon.Start(ctx, daemon.Program{Path: c.program, Args: args, Log: filepath.Join(r.Dir, logName)}, func() bool { return answers(ctx, r.Dir) })
	if err != nil {
		// A port that somebody took in this moment is another one the next time.
		return state, problem.New(problem.Unavailable, "see "+filepath.Join(r.Dir, logName), "machine %s was not powered on: %v", r.Name, err)
	}
	state.PID, state.Since = c.pid(r.Dir), time.Now().UTC()
	return state, writeState(r.Dir, state)
}

// found reports whether the replica runs, and waits for one that is about to.
func (c *Compute) found(ctx context.Context, dir string) bool {
	for end := time.Now().Add(startLimit / 3); c.pid(dir) != 0 && time.Now().Before(end) && ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		if answers(ctx, dir) {
			return true
		}
	}
	return false
}

func answers(ctx context.Context, dir string) bool {
	return command(ctx, filepath.Join(dir, controlName), "query-status", nil, nil) == nil
}

// pid is that of the replica's process; 0 if there is none.
func (c *Compute) pid(dir string) int {
	for _, pid := range daemon.Find(mark(dir), c.name()) {
		return pid
	}
	return 0
}

// mark is what a replica's process has on its command line and no other has.
func mark(dir string) string { return comma(filepath.Join(dir, controlName)) }

// name is what the program is called once it runs.
func (c *Compute) name() string {
	path, err := filepath.EvalSymlinks(c.program)
	if err != nil {
		path = c.program
	}
	return filepath.Base(path)
}

// prepare chooses what this life of the replica has, and writes it down before the life
// begins.
func prepare(r failover.Replica, vars string) (failover.Powered, error) {
	in := func(name string) string { return filepath.Join(r.Dir, name) }
	s := failover.Powered{Control: in(controlName), Display: in(displayName), Console: in(consoleName), Ports: map[string]string{}}
	for _, port := range r.Forward {
		addr, err := freeAddress()
		if err != nil {
			return s, err
		}
		s.Ports[strconv.Itoa(port)] = addr
	}
	if r.Firmware == failover.UEFI {
		if err := copyOnce(vars, in(varsName)); err != nil {
			return s, err
		}
	}
	return s, writeState(r.Dir, s)
}

// freeAddress is one of the host's loopback that nobody uses now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		return "", fmt.Errorf("a port for the replica: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// copyOnce leaves alone what is there: a replica's variables are its own.
func copyOnce(from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("UEFI's variables: %w", err)
	}
	part := to + ".part"
	return errors.Join(os.WriteFile(part, b, 0o600), os.Rename(part, to))
}

func readState(dir string) (s failover.Powered, err error) {
	b, err := os.ReadFile(filepath.Join(dir, stateName))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

func writeState(dir string, s failover.Powered) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	part := filepath.Join(dir, stateName+".part")
	return errors.Join(os.WriteFile(part, b, 0o600), os.Rename(part, filepath.Join(dir, stateName)))
}

// Look implements failover.Compute.
func (c *Compute) Look(ctx context.Context, dir string) (failover.Sight, error) {
	s := failover.Sight{Console: end(filepath.Join(dir, consoleName), maxConsole), Heartbeat: end(filepath.Join(dir, heartbeatName), maxBeat)}
	var status struct {
		Status string `json:"status"`
	}
	err := command(ctx, filepath.Join(dir, controlName), "query-status", nil, &status)
	switch {
	case err == nil:
		s.Running, s.State = true, status.Status
	case ctx.Err() != nil:
		return s, context.Cause(ctx)
	case c.pid(dir) != 0: // it is busy with another client, or hangs
		s.Running, s.State = true, "silent"
	default:
		s.Last = daemon.Tail(filepath.Join(dir, logName))
	}
	return s, nil
}

// end is the last n bytes of a file; nothing if it cannot be read.
func end(file string, n int64) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, err = f.Seek(max(0, size-n), io.SeekStart)
		if err != nil {
			return ""
		}
	}
	b, _ := io.ReadAll(io.LimitReader(f, n)) // what it gave is enough to look at
	return string(b)
}

func (c *Compute) end(ctx context.Context, dir string) error {
	if c.program == "" {
		return nil
	}
	return daemon.End(ctx, mark(dir), c.name(), stopGrace)
}

// Stop implements failover.Compute.
func (c *Compute) Stop(ctx context.Context, dir string) error {
	if err := c.end(ctx, dir); err != nil {
		return problem.New(problem.Unavailable, "end it by hand", "the replica in %s: %v", dir, err)
	}
	names := []string{controlName, displayName, consoleName, heartbeatName, logName, varsName, varsName + ".part", stateName, stateName + ".part"}
	shots, _ := filepath.Glob(filepath.Join(dir, "screen-*")) // of a control plane that was killed
	for _, shot := range shots {
		names = append(names, filepath.Base(shot))
	}
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("what the replica left: %w", err)
		}
	}
	return nil
}
