// Package pushtest makes machines to push to: a real OpenSSH server with users and a root
// directory of its own, on this kernel. Only root can make them.
package pushtest

import (
	"cmp"
	"context"
	"crypto/ed25519"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

//go:embed target.sh
var script string

// Users of a target besides root. All have its key and its password.
const (
	Free  = "free"  // sudo asks for nothing
	Asker = "asker" // sudo asks for the password
	Tied  = "tied"  // sudo wants a terminal
	Guest = "guest" // no sudo
)

// Options of a target.
type Options struct {
	Temp    string // size of its temporary directories and root's home, as tmpfs has it; 256M if empty
	Journal string // size of its /var/lib; 2G if empty
}

// Target is a machine to push to.
type Target struct {
	Addr     string // host:port of its sshd
	Key      string // file with the private key that lets in
	Password string // file with the password that does, too

	t       testing.TB
	dir     string
	options Options
	host    ssh.Signer
	cmd     *exec.Cmd
	log     string
}

// New starts a target, which ends with the test.
func New(t testing.TB, o Options) *Target {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := &Target{Addr: l.Addr().String(), t: t, dir: t.TempDir(), options: o}
	l.Close()
	target.Key, target.Password = filepath.Join(target.dir, "login"), filepath.Join(target.dir, "password")
	target.log = filepath.Join(t.TempDir(), "sshd.log")
	login, private := newKey(t)
	target.write("login.pub", ssh.MarshalAuthorizedKey(login.PublicKey()), 0o644)
	target.write("login", encode(t, private), 0o600)
	target.write("password", []byte("it's a \"secret\" of mine\n"), 0o600)
	t.Cleanup(func() {
		target.stop()
		if t.Failed() {
			said, _ := os.ReadFile(target.log)
			t.Logf("sshd of %s:\n%s", target.Addr, said)
		}
	})
	target.Rekey()
	return target
}

// Rekey has the target installed anew: it has another host key, and nothing of what was.
func (g *Target) Rekey() {
	g.t.Helper()
	g.stop()
	signer, private := newKey(g.t)
	g.host = signer
	g.write("host_key", encode(g.t, private), 0o600)
	log, err := os.OpenFile(g.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		g.t.Fatal(err)
	}
	defer log.Close()
	_, port, _ := net.SplitHostPort(g.Addr)
	cmd := exec.Command("/bin/sh", "-c", script) //nolint:noctx // the test's context ends before its clean-ups, which look at it
	cmd.Env = append(os.Environ(), "dir="+g.dir, "port="+port, "temp="+cmp.Or(g.options.Temp, "256M"), "journal="+cmp.Or(g.options.Journal, "2G"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.cmd = cmd
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(g.t.Context(), "tcp", g.Addr)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			said, _ := os.ReadFile(g.log)
			g.t.Fatalf("sshd does not answer: %v\n%s", err, said)
		}
	}
}

func (g *Target) stop() {
	if g.cmd != nil {
		_ = g.cmd.Process.Kill() // process 1: its namespaces go with it
		_ = g.cmd.Wait()
		g.cmd = nil
	}
}

// Fingerprint is that of its host key.
func (g *Target) Fingerprint() string { return ssh.FingerprintSHA256(g.host.PublicKey()) }

// In runs a script on the target, as root, by the back door.
func (g *Target) In(script string) string {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nsenter", "-t", strconv.Itoa(g.cmd.Process.Pid), "-m", "-p", "-u", "-i", "sh", "-c", script).CombinedOutput()
	if err != nil {
		g.t.Fatalf("on the target: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// Files are all that the target has written since it began, beside the logs of logins.
func (g *Target) Files() []string {
	g.t.Helper()
	out := g.In(`cd /mnt/own && find . ! -type d ! -path './var/log*' && find /tmp /var/tmp /root /var/lib /run /sys/fs/bpf ! -path '/run/sudo*' ! -path '/run/utmp'`)
	return strings.Split(out, "\n")
}

func (g *Target) write(name string, content []byte, mode os.FileMode) {
	g.t.Helper()
	path := filepath.Join(g.dir, name)
	if err := errors.Join(os.WriteFile(path, content, mode), os.Chmod(path, mode)); err != nil {
		g.t.Fatal(err)
	}
}

func newKey(t testing.TB) (ssh.Signer, ed25519.PrivateKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer, private
}

// encode is a private key as OpenSSH's files hold it.
func encode(t testing.TB, key ed25519.PrivateKey) []byte {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(fmt.Errorf("a key: %w", err))
	}
	return pem.EncodeToMemory(block)
}
