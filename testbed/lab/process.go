package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Process is a program that runs beside the lab and may be killed and started again.
// What it prints goes to one log over all its lives.
type Process struct {
	Name string
	Log  string // path of its log

	path string
	args []string
	env  []string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how it ended; valid after done
}

// NewProcess prepares a program; Start starts it.
func (l *Lab) NewProcess(name, path string, args ...string) *Process {
	p := &Process{Name: name, Log: l.Path(name + ".log"), path: path, args: args}
	p.env = append(os.Environ(), labVar+"="+l.Dir)
	l.OnClose(p.Kill)
	return p
}

// Start starts it (again). It is not bound to a context: whoever kills it says so.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running() {
		return fmt.Errorf("%s runs already", p.Name)
	}
	p.Note(fmt.Sprintf("starts %s %v", filepath.Base(p.path), p.args))
	log, err := p.openLog()
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.path, p.args...) //nolint:noctx // it outlives the context of whoever started it; Close ends it
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, p.env
	// Its own process group: a Ctrl-C in the terminal is for the lab, which then ends
	// its processes in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.cmd, p.done = cmd, make(chan struct{})
	go p.reap(cmd, p.done)
	return nil
}

func (p *Process) openLog() (*os.File, error) {
	return os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}

// Note adds a line of the testbed's own to the log, if there can be one.
func (p *Process) Note(text string) {
	log, err := p.openLog()
	if err != nil {
		return
	}
	defer log.Close()
	fmt.Fprintf(log, "--- %s %s\n", time.Now().Format(time.RFC3339Nano), text)
}

func (p *Process) reap(cmd *exec.Cmd, done chan struct{}) {
	err := cmd.Wait()
	p.mu.Lock()
	p.err = err
	p.mu.Unlock()
	close(done)
}

// running is asked with the lock held.
func (p *Process) running() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// PID is its process id, 0 while it does not run.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return 0
	}
	return p.cmd.Process.Pid
}

// Signal sends it a signal; an error if it does not run.
func (p *Process) Signal(s syscall.Signal) error {
	pid := p.PID()
	if pid == 0 {
		return errors.Join(fmt.Errorf("%s does not run%s", p.Name, p.Tail()), p.Err())
	}
	return syscall.Kill(pid, s)
}

// Kill is kill -9: the process does not learn of it. It returns when it is gone.
func (p *Process) Kill() {
	if p.Signal(syscall.SIGKILL) == nil {
		<-p.ended()
	}
}

// Stop asks it to end by SIGTERM and reports how it did.
func (p *Process) Stop(limit time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.ended():
		return p.Err()
	case <-time.After(limit):
		p.Kill()
		return fmt.Errorf("%s did not end within %s of SIGTERM%s", p.Name, limit, p.Tail())
	}
}

// Wait returns how it ended, once it has.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.ended():
		return p.Err()
	case <-ctx.Done():
		return fmt.Errorf("%s still runs: %w", p.Name, ctx.Err())
	}
}

func (p *Process) ended() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// Err is how its last life ended; nil if well, or if it runs.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done == nil {
		return errors.New("never started")
	}
	return p.err
}

// Tail is the end of its log, for error messages.
func (p *Process) Tail() string {
	log, err := os.ReadFile(p.Log)
	if err != nil {
		return ""
	}
	lines := bytes.Split(bytes.TrimRight(log, "\n"), []byte("\n"))
	return fmt.Sprintf("\n%s, its last lines:\n%s", p.Log, bytes.Join(lines[max(0, len(lines)-12):], []byte("\n")))
}

// FreeAddr is a loopback address with a port that nobody listens on, neither by TCP nor
// by UDP. Another process may take it in the meantime; the lab is not that busy.
func FreeAddr(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	for range 20 {
		l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		addr := l.Addr().String()
		u, err := lc.ListenPacket(ctx, "udp", addr)
		l.Close()
		if err == nil {
			return addr, u.Close()
		}
	}
	return "", errors.New("no loopback port is free for both tcp and udp")
}
