package push

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/understudy-dr/understudy/pkg/problem"
)

const (
	connectTimeout   = 10 * time.Second
	handshakeTimeout = 30 * time.Second
	keepAlive        = 15 * time.Second // a peer that is gone answers none of these
	maxOutput        = 1 << 20          // bytes of what a script may say
)

// target is a machine that is reached by SSH.
type target struct {
	name  string // as the operator calls it
	addr  string // host:port
	user  string
	local string // the address this process reaches it from

	client *ssh.Client
	root   rootBy
	secret string // sudo's password
}

// rootBy is how scripts become root.
type rootBy string

const (
	byNothing  rootBy = ""         // they do not
	byLogin    rootBy = "login"    // the user is root
	bySudo     rootBy = "sudo"     // which asks for nothing
	byPassword rootBy = "password" // sudo, which asks for one on standard input
)

func (t *target) connect(ctx context.Context, o Options) error {
	unreachable := func(err error) error {
		return problem.New(problem.Unavailable, "check the name and port, that sshd runs there, and that nothing blocks the way", "%s cannot be reached by SSH at %s: %v", t.name, t.addr, err)
	}
	conn, err := (&net.Dialer{Timeout: connectTimeout}).DialContext(ctx, "tcp", t.addr)
	if err != nil {
		return unreachable(err)
	}
	t.local, _, _ = net.SplitHostPort(conn.LocalAddr().String())
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	checked := errors.New("it said nothing") // what the host key's check found, if it came to that
	config := &ssh.ClientConfig{
		User: t.user, Auth: o.Login,
		HostKeyAlgorithms: o.Keys.algorithms(t.addr),
		HostKeyCallback: func(_ string, remote net.Addr, key ssh.PublicKey) error {
			// It may ask the operator, who may think.
			checked = errors.Join(conn.SetDeadline(time.Time{}), o.Keys.check(ctx, t.name, t.addr, remote, key), conn.SetDeadline(time.Now().Add(handshakeTimeout)))
			return checked
		},
	}
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return unreachable(err)
	}
	c, channels, requests, err := ssh.NewClientConn(conn, t.addr, config)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return errors.Join(ctx.Err(), conn.Close())
	case asProblem(checked) != nil:
		return errors.Join(checked, conn.Close())
	case checked == nil: // so it is us whom it does not want
		_ = conn.Close()
		return problem.New(problem.Forbidden, "check --user and --key or --password-file, and what its sshd allows (PermitRootLogin, PasswordAuthentication, AllowUsers)",
			"%s does not let %s in: %v", t.name, t.user, err)
	default:
		_ = conn.Close()
		return unreachable(err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return errors.Join(unreachable(err), c.Close())
	}
	t.client = ssh.NewClient(c, channels, requests)
	go t.keepAlive()
	return nil
}

// keepAlive ends a connection whose other end is gone without a word.
func (t *target) keepAlive() {
	ended := make(chan struct{})
	go func() { _ = t.client.Wait(); close(ended) }()
	for {
		answered := make(chan error, 1)
		select {
		case <-ended:
			return
		case <-time.After(keepAlive):
		}
		go func() { _, _, err := t.client.SendRequest("keepalive@openssh.com", true, nil); answered <- err }()
		select {
		case err := <-answered:
			if err == nil {
				continue
			}
		case <-time.After(2 * keepAlive):
		}
		_ = t.client.Close()
		return
	}
}

func (t *target) close() { _ = t.client.Close() } // everything was said

// scriptError is a script that failed on a target.
type scriptError struct {
	host string
	code int    // exit code; -1: the connection ended before it
	said string // its last words
	err  error
}

func (e *scriptError) Error() string {
	if e.code < 0 {
		return fmt.Sprintf("the connection to %s was lost: %v", e.host, e.err)
	}
	return fmt.Sprintf("%s: exit code %d: %s", e.host, e.code, e.said)
}

func (e *scriptError) Unwrap() error { return e.err }

// run has the user's account on the target run a script and returns what it printed. What
// it is to keep to itself comes by in: its arguments are seen by every user there.
func (t *target) run(ctx context.Context, script string, in io.Reader) (string, error) {
	return t.execute(ctx, "exec sh -c "+quote(script), in)
}

// asRoot does the same as root.
func (t *target) asRoot(ctx context.Context, script string, in io.Reader) (string, error) {
	command, before := t.rootCommand(script)
	if in == nil {
		in = strings.NewReader("")
	}
	return t.execute(ctx, command, io.MultiReader(strings.NewReader(before), in))
}

// rootCommand is a script as root's, and what must come first on its standard input. With
// -k sudo asks in any case, so that the password is never left for the script to read.
func (t *target) rootCommand(script string) (command, before string) {
	switch t.root {
	case bySudo:
		return "exec sudo -n -- sh -c " + quote(script), ""
	case byPassword:
		return "exec sudo -k -S -p '' -- sh -c " + quote(script), t.secret + "\n"
	default:
		return "exec sh -c " + quote(script), ""
	}
}

func (t *target) execute(ctx context.Context, command string, in io.Reader) (string, error) {
	session, err := t.client.NewSession()
	if err != nil {
		return "", &scriptError{host: t.name, code: -1, err: err}
	}
	defer session.Close()
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()
	var out, complaint limited
	session.Stdin, session.Stdout, session.Stderr = in, &out, &complaint
	err = session.Run(command)
	if err == nil {
		return out.String(), nil
	}
	if ctx.Err() != nil {
		return out.String(), ctx.Err()
	}
	failed := &scriptError{host: t.name, code: -1, err: err}
	if exit, ok := errors.AsType[*ssh.ExitError](err); ok {
		failed.code, failed.said = exit.ExitStatus(), lastWords(complaint.String()+"\n"+out.String())
	}
	return out.String(), failed
}

// limited keeps the first maxOutput bytes.
type limited struct{ bytes.Buffer }

func (l *limited) Write(b []byte) (int, error) {
	if room := maxOutput - l.Len(); room > 0 {
		l.Buffer.Write(b[:min(len(b), room)])
	}
	return len(b), nil
}

// lastWords are the last lines of what a script said, in one.
func lastWords(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-4):], "; ")
}

// quote is s as one word of any shell: a user's own may be another than sh.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
