package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture"
)

func TestReach(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := l.Addr().String()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nobody := closed.Addr().String()
	closed.Close()
	got := reachAll(t.Context(), []string{open, nobody, "no such name.invalid:1"})
	for i, want := range []struct {
		answer capture.Answer
		remedy string
	}{{capture.Yes, ""}, {capture.No, "nothing listens there"}, {capture.No, "look the name up"}} {
		if c := got[i]; c.Answer != want.answer || !strings.Contains(c.Remedy, want.remedy) || (want.remedy == "") != (c.Remedy == "") {
			t.Errorf("%+v, want %s and %q", c, want.answer, want.remedy)
		}
	}
}

// TestRoom: on a small file system there is room for what is small, for what is partly
// there already, and for nothing larger; below a directory that is not there yet as well.
func TestRoom(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8M"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	file := filepath.Join(dir, "spill.hrl")
	if err := os.WriteFile(file, make([]byte, 5<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(dir, "not", "there")
	for need, want := range map[int64]capture.Answer{
		2 << 20:                   capture.Yes,
		7 << 20:                   capture.No,
		7<<20 - allocated(file):   capture.Yes,
		12<<20 - allocated(below): capture.No,
	} {
		if c := room(below, need, "frames", "free some"); c.Answer != want || (c.Remedy == "") != (want == capture.Yes) {
			t.Errorf("room for %d: %+v, want %s", need, c, want)
		}
	}
}

func TestTokenFromWhereItWasPut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("in a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    enrolOptions
		want string
	}{{enrolOptions{token: "given"}, "given"}, {enrolOptions{tokenFile: "-"}, "said"}, {enrolOptions{tokenFile: file}, "in a file\n"}} {
		if got, err := c.o.secret(strings.NewReader("said")); err != nil || got != c.want {
			t.Errorf("%+v gives %q, %v", c.o, got, err)
		}
	}
	if _, err := (enrolOptions{tokenFile: file + "x"}).secret(nil); err == nil {
		t.Error("a file that is not there gave a token")
	}
}

// TestPlaceForStop: a memory file system lies on no disk, and the probe says so and what
// to do.
func TestPlaceForStop(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1M"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	c := placeForStop(filepath.Join(dir, "not", "there"))
	if len(c) != 1 || c[0].Answer != capture.No || !strings.Contains(c[0].Detail, "only ext4 and xfs") || !strings.Contains(c[0].Remedy, dir) {
		t.Errorf("%+v", c)
	}
}
