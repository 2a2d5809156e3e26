package ready_test

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/ready"
)

func TestTell(t *testing.T) {
	for name, path := range map[string]string{
		"socket file": filepath.Join(t.TempDir(), "notify"),
		"abstract":    "@" + t.TempDir(),
	} {
		t.Run(name, func(t *testing.T) {
			manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer manager.Close()
			t.Setenv("NOTIFY_SOCKET", path)
			if err := ready.Tell(t.Context()); err != nil {
				t.Fatal(err)
			}
			heard := make([]byte, 64)
			_ = manager.SetReadDeadline(time.Now().Add(5 * time.Second))
			n, err := manager.Read(heard)
			if err != nil || string(heard[:n]) != "READY=1" {
				t.Fatalf("the service manager heard %q, %v", heard[:n], err)
			}
		})
	}
}

func TestTellWithoutAManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := ready.Tell(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	if err := ready.Tell(t.Context()); err == nil {
		t.Fatal("nobody listens, and it said nothing")
	}
}
