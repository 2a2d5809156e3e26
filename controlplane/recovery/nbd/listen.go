package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

// DefaultAddress is the loopback end of the port that is registered for NBD.
const DefaultAddress = "127.0.0.1:10809"

// ErrExposed is an address that others could reach.
var ErrExposed = errors.New("the protocol has no authentication: anybody who reaches the address can read and write the disks")

// Listen listens on "unix:PATH" or on HOST:PORT. A socket file can be used by its
// owner only; one that nobody listens on any more is replaced. Addresses other than
// loopback are refused unless exposed is true.
func Listen(address string, exposed bool) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return listenUnix(path)
	}
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("nbd: %q is not an address: want HOST:PORT or unix:PATH: %w", address, err)
	}
	if !exposed && !tcp.IP.IsLoopback() {
		return nil, fmt.Errorf("nbd: not listening on %s: %w: use loopback or a unix socket", address, ErrExposed)
	}
	return net.ListenTCP("tcp", tcp)
}

func listenUnix(path string) (net.Listener, error) {
	ln, err := listenPrivately(path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return ln, err
	}
	if fi, err := os.Lstat(path); err != nil || fi.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("nbd: %s is there already and is not a socket: choose another path", path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if nc, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
		nc.Close()
		return nil, fmt.Errorf("nbd: another process listens on %s: stop it or choose another path", path)
	}
	if err := os.Remove(path); err != nil {
		return nil, fmt.Errorf("nbd: removing the stale socket %s: %w", path, err)
	}
	return listenPrivately(path)
}

// listenPrivately makes the socket file for its owner only. The mode is set before
// the file exists: there is no moment at which another user could connect.
func listenPrivately(path string) (net.Listener, error) {
	private := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if broken := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); broken != nil {
			return broken
		}
		return err
	}}
	return private.Listen(context.Background(), "unix", path)
}

// URI is what clients call the export of that name on that listener.
func URI(ln net.Listener, export string) string {
	if a, ok := ln.Addr().(*net.UnixAddr); ok {
		return "nbd+unix:///" + escape(export) + "?socket=" + escape(a.Name)
	}
	return "nbd://" + ln.Addr().String() + "/" + escape(export)
}

func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
