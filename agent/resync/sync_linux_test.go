package resync

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/agent/mounts"
)

// holds reports whether the disk itself holds these bytes, wherever.
func (d *loopDisk) holds(dev Device, want []byte) bool {
	d.t.Helper()
	buf := aligned(chunkSize)
	for off := int64(0); off < d.size; off += chunkSize {
		n, _ := dev.ReadAt(buf[:min(chunkSize, d.size-off)], off)
		if bytes.Contains(buf[:n], want) {
			return true
		}
	}
	return false
}

// smudge writes a block of a file and leaves it in memory.
func smudge(t *testing.T, path string) []byte {
	t.Helper()
	b := make([]byte, 4096)
	_, _ = rand.Read(b)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteAt(b, 64<<10); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSyncReachesWhateverLiesOnTheDisk: what is only in memory is on the disk after Sync,
// through file systems that say nothing of their free space, too.
func TestSyncReachesWhateverLiesOnTheDisk(t *testing.T) {
	for name, place := range map[string]func(t *testing.T) (*loopDisk, string){
		"ext4": func(t *testing.T) (*loopDisk, string) {
			d := newLoopDisk(t, "ext4", 0)
			return d, filepath.Join(d.dir, "file")
		},
		"btrfs on a partition": func(t *testing.T) (*loopDisk, string) {
			d := newLoopDisk(t, "btrfs", 1<<20)
			return d, filepath.Join(d.dir, "file")
		},
		"a device's own cache": func(t *testing.T) (*loopDisk, string) {
			d := newLoopDisk(t, "ext4", 1<<20)
			must(t, "umount", d.dir)
			return d, d.node
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, file := place(t)
			dev, err := openDevice(d.target())
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			want := smudge(t, file)
			if d.holds(dev, want) {
				t.Skip("it was written at once: this shows nothing")
			}
			if err := dev.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !d.holds(dev, want) {
				t.Error("what was in memory is not on the disk")
			}
		})
	}
}

// TestMountsOnDevices: each file system once, whichever its mounts; one on no device of
// the disk is left out.
func TestMountsOnDevices(t *testing.T) {
	var points []string
	for _, m := range mountsOn(mounts.Parse(mountTable), []string{"8:2", "8:17"}) {
		points = append(points, m.Point)
	}
	if got := strings.Join(points, " "); got != `/bind /srv/with blank\` && got != `/ /srv/with blank\` {
		t.Errorf("mounts at %s", got)
	}
}

// TestDevicesStackedOnADisk: a volume over two partitions, and what is made of it, come
// behind what they stand on.
func TestDevicesStackedOnADisk(t *testing.T) {
	root := t.TempDir()
	device := func(dir, dev string) string {
		t.Helper()
		dir = filepath.Join(root, dir)
		if err := os.MkdirAll(filepath.Join(dir, "holders"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"dev": dev + "\n", "size": "8\n", "start": "0\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	hold := func(below, above string) {
		t.Helper()
		if err := os.Symlink(above, filepath.Join(below, "holders", filepath.Base(above))); err != nil {
			t.Fatal(err)
		}
	}
	disk, one, two := device("sda", "8:0"), device("sda/sda1", "8:1"), device("sda/sda2", "8:2")
	for _, part := range []string{one, two} {
		if err := os.WriteFile(filepath.Join(part, "partition"), []byte("1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	crypt, volume := device("dm-0", "253:0"), device("dm-1", "253:1")
	hold(one, crypt)
	hold(crypt, volume)
	hold(two, volume)
	got, err := devicesOn(disk)
	if want := []string{"8:0", "8:1", "8:2", "253:0", "253:1"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, want %v; %v", got, want, err)
	}
}
