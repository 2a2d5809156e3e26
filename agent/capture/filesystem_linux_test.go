package capture

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// history keeps every record, so that any prefix can be replayed.
type history struct {
	mu      sync.Mutex
	records []Record
	acked   []ack
}

// ack: this file was synced when so many records had been captured.
type ack struct {
	records int
	name    string
	content []byte
}

func (h *history) drain(t testing.TB, s Source) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		var pos uint64
		n, lost, err := s.Poll(func(r Record) bool {
			pos = r.Pos
			r.Data = bytes.Clone(r.Data)
			h.records = append(h.records, r)
			return true
		})
		must(t, err)
		if lost {
			t.Fatal("lost a write")
		}
		if n == 0 {
			return
		}
		must(t, s.Advance(pos))
	}
}

// churn writes, syncs, renames and removes files under dir until it has acked n.
func (h *history) churn(t testing.TB, s Source, dir string, n int, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range n {
		name := fmt.Sprintf("dir%d/file%d", i%7, i)
		must(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700))
		content := make([]byte, 1+r.IntN(200<<10))
		fill(content, r)
		f, err := os.Create(filepath.Join(dir, "temporary"))
		must(t, err)
		_, err = f.Write(content)
		must(t, err)
		must(t, f.Sync())
		must(t, f.Close())
		must(t, os.Rename(filepath.Join(dir, "temporary"), filepath.Join(dir, name)))
		d, err := os.Open(filepath.Join(dir, filepath.Dir(name)))
		must(t, err)
		must(t, d.Sync())
		must(t, d.Close())
		h.drain(t, s)
		h.mu.Lock()
		h.acked = append(h.acked, ack{records: len(h.records), name: name, content: content})
		h.mu.Unlock()
		// Unsynced noise beside it.
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("noise%d", i%5)), content[:len(content)/2], 0o600))
	}
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// TestFilesystemPrefixes: any prefix of the log is what a power cut leaves: the
// file system mounts, checks clean, and has every file synced before.
func TestFilesystemPrefixes(t *testing.T) {
	for _, fs := range []struct {
		kind  string
		size  int64
		mkfs  []string
		check []string
	}{
		{"ext4", 96 << 20, []string{"mkfs.ext4", "-q", "-F"}, []string{"e2fsck", "-fn"}},
		{"xfs", 320 << 20, []string{"mkfs.xfs", "-q", "-f"}, []string{"xfs_repair", "-n"}},
	} {
		t.Run(fs.kind, func(t *testing.T) {
			needRoot(t)
			for _, tool := range []string{fs.mkfs[0], fs.check[0]} {
				if _, err := exec.LookPath(tool); err != nil {
					t.Skipf("%s is not installed", tool)
				}
			}
			dir := t.TempDir() // not tmpfs, whose loop devices refuse the zeroing of tables
			d := newLoop(t, dir, fs.size)
			s := tracking(t, 256<<20, d)
			h := &history{}
			run(t, fs.mkfs[0], append(fs.mkfs[1:], d.Path)...)
			mount := filepath.Join(t.TempDir(), "fs")
			must(t, os.Mkdir(mount, 0o700))
			must(t, unix.Mount(d.Path, mount, fs.kind, 0, ""))
			defer func() { _ = unix.Unmount(mount, unix.MNT_DETACH) }()
			h.drain(t, s)
			first := len(h.records)
			h.churn(t, s, mount, 60, 1)
			must(t, unix.Unmount(mount, 0))
			must(t, s.Barrier(context.Background()))
			h.drain(t, s)

			r := rand.New(rand.NewPCG(3, 4))
			for range 12 {
				h.checkPrefix(t, dir, d, fs.kind, fs.check, first+r.IntN(len(h.records)-first+1))
			}
			h.checkPrefix(t, dir, d, fs.kind, fs.check, len(h.records))
			whole := newReplica(d)
			for _, rec := range h.records {
				whole.apply(rec)
			}
			whole.equal(t, d)
			t.Logf("%d records, %d synced files", len(h.records), len(h.acked))
		})
	}
}

func (h *history) checkPrefix(t *testing.T, dir string, d Disk, kind string, check []string, n int) {
	t.Helper()
	r := newReplica(d)
	for _, rec := range h.records[:n] {
		r.apply(rec)
	}
	image := filepath.Join(dir, "prefix.img")
	must(t, os.WriteFile(image, r.images[d.ID], 0o600))
	defer func() { _ = os.Remove(image) }()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	must(t, err)
	dev := attachLoop(t, f)
	must(t, f.Close())
	defer detachLoop(dev)
	mount := t.TempDir()
	if err := unix.Mount(dev, mount, kind, 0, ""); err != nil {
		t.Fatalf("%d of %d records do not mount: %v", n, len(h.records), err)
	}
	for _, a := range h.acked {
		if a.records > n {
			break
		}
		got, err := os.ReadFile(filepath.Join(mount, a.name))
		if err != nil || !bytes.Equal(got, a.content) {
			_ = unix.Unmount(mount, unix.MNT_DETACH)
			t.Fatalf("%d of %d records: %s was synced at %d and is not there: %v", n, len(h.records), a.name, a.records, err)
		}
	}
	must(t, unmount(mount))
	run(t, check[0], append(check[1:], dev)...)
}

// unmount waits for whoever looks at a new mount for a moment.
func unmount(dir string) (err error) {
	for range 50 {
		if err = unix.Unmount(dir, 0); err != unix.EBUSY {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}
