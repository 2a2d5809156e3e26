package linux_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// disk is a loop device that is written block by block, each block once: no later write
// can cover up a lost one.
type disk struct {
	t       *testing.T
	device  string
	written atomic.Int64 // acknowledged writes
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, diskSize); err != nil {
		t.Fatal(err)
	}
	d := &disk{t: t, device: strings.TrimSpace(run(t, "losetup", "--find", "--show", file))}
	t.Cleanup(func() {
		if _, err := try(context.Background(), "losetup", "--detach", d.device); err != nil {
			t.Error(err)
		}
	})
	return d
}

// load writes until it is stopped, about a thousand blocks a second, past the page cache:
// what is counted is on the disk.
func (d *disk) load() (stop func()) {
	d.t.Helper()
	f, err := os.OpenFile(d.device, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	var done atomic.Bool
	var group sync.WaitGroup
	group.Go(func() {
		defer f.Close()
		buffer := aligned()
		for i := int64(0); !done.Load() && i < diskSize/blockSize; i++ {
			copy(buffer, content(uint64(i)))
			if _, err := f.WriteAt(buffer, i*blockSize); err != nil {
				d.t.Errorf("write %d: %v", i, err)
				return
			}
			d.written.Store(i + 1)
			time.Sleep(time.Millisecond)
		}
	})
	return func() { done.Store(true); group.Wait() }
}
