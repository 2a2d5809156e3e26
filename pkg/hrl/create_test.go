package hrl

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestCreateIsAtomic makes a file where an earlier attempt was cut, and fails to make
// one where another lies.
func TestCreateIsAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.hrl")
	if err := os.WriteFile(path+".new", []byte("left over"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, Config{Kind: Disk, RingBytes: 64 << 10, StateBytes: 1, State: []byte("carried")}); err != nil {
		t.Fatal(err)
	}
	r, found := open(t, path)
	appendOne(t, r, 1, 100)
	r.Close()
	if string(found.State) != "carried" {
		t.Errorf("state %q", found.State)
	}
	before, _ := os.ReadFile(path)
	var full *SpaceError
	if err := Create(path, Config{Kind: Disk, RingBytes: 1 << 43, StateBytes: 1}); !errors.As(err, &full) || full.Path != path {
		t.Errorf("a file of 8 TiB: %v", err)
	}
	if err := Create(path, Config{Kind: Disk, RingBytes: MaxRing * 2, StateBytes: 1}); !errors.Is(err, ErrLimit) {
		t.Errorf("a file beyond the limits: %v", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("a failed attempt changed what was there")
	}
	if left, _ := filepath.Glob(path + "*"); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}
