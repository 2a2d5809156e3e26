package nbd

import (
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
)

func TestListenKeepsToItself(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0"} {
		if ln, err := Listen(address, false); !errors.Is(err, ErrExposed) {
			t.Errorf("%s: %v, %v", address, ln, err)
		}
	}
	ln, err := Listen("0.0.0.0:0", true)
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
}

func TestUnixSocketIsPrivateAndReplacedWhenStale(t *testing.T) {
	dir, err := os.MkdirTemp("", "nbd") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "sock")
	ln, err := Listen("unix:"+path, false)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if got := URI(ln, "disk 1"); got != "nbd+unix:///disk%201?socket="+url.QueryEscape(path) {
		t.Errorf("URI %s", got)
	}
	if _, err := Listen("unix:"+path, false); err == nil {
		t.Error("a socket in use was taken over")
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // as after kill -9
	ln.Close()
	if ln, err = Listen("unix:"+path, false); err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	ln.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix:"+path, false); err == nil {
		t.Error("a file was taken for a socket")
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file is now %q, %v", b, err)
	}
}
