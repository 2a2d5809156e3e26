package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Enter is a machine that somebody else has started from a disk of this image, and whose
// ssh the host finds at addr. Only what goes through ssh can be done with it.
func Enter(i *Image, name, addr string) (*Guest, error) {
	config, err := i.client()
	if err != nil {
		return nil, err
	}
	return &Guest{Name: name, addr: addr, config: config}, nil
}

// Run has the guest's bash execute a script, as root, until its first failure, and
// returns what it printed. The error holds what it complained of; a context that ends
// leaves the script alone and cuts the connection.
func (g *Guest) Run(ctx context.Context, script string) (string, error) {
	var out bytes.Buffer
	err := g.execute(ctx, script, nil, &out)
	return out.String(), err
}

// Put copies a file of the host to this path of the guest, with its mode, and syncs it.
func (g *Guest) Put(ctx context.Context, file, path string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return g.PutFrom(ctx, f, path, info.Mode())
}

// PutFrom makes the guest's file of what r gives. It is there whole or not at all.
func (g *Guest) PutFrom(ctx context.Context, r io.Reader, path string, mode fs.FileMode) error {
	p, part := quote(path), quote(path+".part")
	script := fmt.Sprintf("mkdir -p \"$(dirname %s)\"; cat >%s; chmod %o %[2]s; sync %[2]s; mv %[2]s %[1]s", p, part, mode.Perm())
	return g.execute(ctx, script, r, io.Discard)
}

// Get copies a file of the guest to the host.
func (g *Guest) Get(ctx context.Context, path, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(g.execute(ctx, "cat "+quote(path), nil, f), f.Close())
}

func (g *Guest) execute(ctx context.Context, script string, in io.Reader, out io.Writer) error {
	client, err := g.dial(ctx)
	if err != nil {
		return fmt.Errorf("guest %s: %w", g.Name, err)
	}
	session, err := client.NewSession()
	if err != nil {
		g.hangUp() // the next one dials anew
		return fmt.Errorf("guest %s: %w", g.Name, err)
	}
	defer session.Close()
	stop := context.AfterFunc(ctx, func() { g.hangUp() })
	defer stop()
	var complaint bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = in, out, &complaint
	if err := session.Run("bash -euc " + quote(script)); err != nil {
		return fmt.Errorf("guest %s: %w: %s", g.Name, errors.Join(context.Cause(ctx), err), strings.TrimSpace(complaint.String()))
	}
	return nil
}

// dial returns the connection, after making it if there is none.
func (g *Guest) dial(ctx context.Context) (*ssh.Client, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client != nil {
		return g.client, nil
	}
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", g.addr)
	if err != nil {
		return nil, err
	}
	// qemu takes the connection before the guest does: without a deadline a handshake
	// with a machine that still boots would wait for ever.
	deadline := conn.SetDeadline(time.Now().Add(20 * time.Second))
	c, channels, requests, err := ssh.NewClientConn(conn, g.addr, g.config)
	if err := errors.Join(deadline, err); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	g.client = ssh.NewClient(c, channels, requests)
	return g.client, nil
}

// hangUp ends the connection, if there is one.
func (g *Guest) hangUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client != nil {
		_ = g.client.Close() // its other end may be gone
		g.client = nil
	}
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
