package journal

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/hrl"
)

// run runs a command and skips the test where it cannot be run here.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Skipf("needs root and loop devices: %s %v: %v: %s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// mounted is a fresh file system on a partition of a loop disk.
func mounted(t *testing.T, mkfs string, args ...string) (dir, disk string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 400<<20); err != nil {
		t.Fatal(err)
	}
	disk = run(t, "losetup", "-P", "-f", "--show", image)
	t.Cleanup(func() { exec.Command("losetup", "-d", disk).Run() })
	run(t, "addpart", disk, "1", "2048", "4096") // not every kernel reads partition tables
	run(t, "addpart", disk, "2", "10240", "800000")
	partition := disk + "p2"
	if _, err := os.Stat(partition); err != nil {
		partition = nodeOf(t, filepath.Base(partition))
	}
	run(t, mkfs, append(args, partition)...)
	dir = t.TempDir()
	run(t, "mount", partition, dir)
	t.Cleanup(func() { exec.Command("umount", dir).Run() })
	return dir, disk
}

// nodeOf makes the device node of a partition where nothing else does.
func nodeOf(t *testing.T, name string) string {
	number, err := os.ReadFile("/sys/class/block/" + name + "/dev")
	if err != nil {
		t.Skipf("the kernel shows no partition: %v", err)
	}
	major, minor, _ := strings.Cut(strings.TrimSpace(string(number)), ":")
	node := filepath.Join(t.TempDir(), name)
	run(t, "mknod", node, "b", major, minor)
	return node
}

// TestSpillExtents compares the bytes at the extents of the whole disk with the file.
func TestSpillExtents(t *testing.T) {
	for _, mkfs := range [][]string{{"mkfs.ext4", "-q"}, {"mkfs.xfs", "-q"}} {
		t.Run(mkfs[0], func(t *testing.T) {
			dir, disk := mounted(t, mkfs[0], mkfs[1:]...)
			o := testOptions(t, 64<<10, 16<<20)
			o.SpillPath = filepath.Join(dir, "lib", "spill.hrl")
			j, _ := mustOpen(t, o)
			fill(t, j, 1, 100<<10)
			path, dev, before, err := j.SpillExtents()
			if err != nil || path != o.SpillPath {
				t.Fatal(path, err)
			}
			var st unix.Stat_t
			if err := unix.Stat(disk, &st); err != nil || st.Rdev != dev {
				t.Errorf("on device %#x, want %#x, %v", dev, st.Rdev, err)
			}
			if err := j.SaveDurable(State{CleanStop: true}); err != nil {
				t.Fatal(err)
			}
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := os.Open(disk)
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			var there []byte
			for _, e := range before {
				b := make([]byte, e.Len)
				if _, err := raw.ReadAt(b, e.Off); err != nil {
					t.Fatal(err)
				}
				there = append(there, b...)
			}
			if !bytes.Equal(file, there[:len(file)]) { // one extent, or ascending as in the file, on a fresh file system
				t.Error("the extents hold something else than the file")
			}
			j.Close()
			j, rec := mustOpen(t, o)
			defer j.Close()
			if _, _, after, err := j.SpillExtents(); err != nil || rec.Moved || len(after) != len(before) || after[0] != before[0] {
				t.Errorf("extents %v became %v, moved %v, %v", before, after, rec.Moved, err)
			}
		})
	}
}

// TestExtentsThatLeadNowhere: an answer that does not go on is no answer, and must not be
// asked for again and again.
func TestExtentsThatLeadNowhere(t *testing.T) {
	for name, bad := range map[string]fiemapExtent{
		"empty":    {logical: 4096, physical: 1 << 20},
		"behind":   {physical: 1 << 20, length: 4096},
		"negative": {logical: 4096, physical: 1 << 63, length: 4096},
		"endless":  {logical: 4096, physical: 1 << 20, length: 1 << 63},
	} {
		asked := 0
		_, err := gatherExtents("spill", func(q *fiemapAnswer) error {
			if asked++; asked > 3 {
				return errors.New("asked again and again")
			}
			q.mapped, q.extents[0] = 1, fiemapExtent{physical: 1 << 30, length: 4096}
			if asked > 1 {
				q.extents[0] = bad
			}
			return nil
		})
		if !errors.Is(err, ErrNoPlace) {
			t.Errorf("%s: %v after %d questions", name, err, asked)
		}
	}
}

func TestMovedFileIsNoticed(t *testing.T) {
	dir, _ := mounted(t, "mkfs.ext4", "-q")
	o := testOptions(t, 64<<10, 1<<20)
	o.SpillPath = filepath.Join(dir, "spill.hrl")
	j, _ := mustOpen(t, o)
	if err := j.SaveState(State{Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	move := func() {
		run(t, "cp", o.SpillPath, o.SpillPath+".copy")
		run(t, "mv", o.SpillPath+".copy", o.SpillPath)
	}
	move()
	if _, _, _, err := j.SpillExtents(); !errors.Is(err, ErrMoved) {
		t.Errorf("moved while open: %v", err)
	}
	j.Close()
	j, rec := mustOpen(t, o)
	defer j.Close()
	if !rec.Moved {
		t.Errorf("moved, but recovered %+v", rec)
	}
}

// TestDiskWithAnotherNumber: the next boot may number its disks in another order, and the
// file lies where it lay. Within one boot another number is another disk.
func TestDiskWithAnotherNumber(t *testing.T) {
	for _, c := range []struct{ boots, moved bool }{{true, false}, {false, true}} {
		dir, disk := mounted(t, "mkfs.ext4", "-q")
		o := testOptions(t, 64<<10, 1<<20)
		o.boot = bootID{1}
		o.SpillPath = filepath.Join(dir, "spill.hrl")
		j, _ := mustOpen(t, o)
		if err := j.SaveDurable(State{CleanStop: true}); err != nil {
			t.Fatal(err)
		}
		j.Close()
		run(t, "umount", dir)
		image := run(t, "losetup", "-n", "-O", "BACK-FILE", disk)
		again := run(t, "losetup", "-P", "-f", "--show", image)
		t.Cleanup(func() { exec.Command("losetup", "-d", again).Run() })
		run(t, "addpart", again, "1", "2048", "4096")
		run(t, "addpart", again, "2", "10240", "800000")
		partition := again + "p2"
		if _, err := os.Stat(partition); err != nil {
			partition = nodeOf(t, filepath.Base(partition))
		}
		run(t, "mount", partition, dir)
		if c.boots {
			o = reboot(t, o)
		}
		j, rec := mustOpen(t, o)
		if rec.Moved != c.moved {
			t.Errorf("rebooted %t: moved %t, want %t", c.boots, rec.Moved, c.moved)
		}
		j.Close()
		run(t, "umount", dir)
	}
}

// TestFullFileSystem makes a journal where there is no room.
func TestFullFileSystem(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	run(t, "mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "none", dir)
	t.Cleanup(func() { exec.Command("umount", dir).Run() })
	o := testOptions(t, 1<<20, 64<<20)
	o.SpillPath = filepath.Join(dir, "spill.hrl")
	j, _, err := Open(o)
	var full *hrl.SpaceError
	if !errors.As(err, &full) || full.Need < 64<<20 || full.Free > 4<<20 || j != nil {
		t.Fatalf("open: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	o.SpillBytes = 0
	o.MemoryDir = dir
	o.MemoryBytes = 64 << 20
	if _, _, err := Open(o); !errors.As(err, &full) {
		t.Errorf("memory stage: %v", err)
	}
	t.Log(err)
}

func TestOneAgentAtATime(t *testing.T) {
	o := testOptions(t, 64<<10, 64<<10)
	j, _ := mustOpen(t, o)
	defer j.Close()
	var busy *hrl.BusyError
	if _, _, err := Open(o); !errors.As(err, &busy) {
		t.Errorf("a second agent: %v", err)
	}
	mustAppend(t, j, 1, 100)
}

func TestMemoryStageBelongsInMemory(t *testing.T) {
	o := testOptions(t, 64<<10, 0)
	o.MemoryOnDisk = false
	if inMemory(filepath.Dir(o.MemoryDir)) {
		t.Skip("temporary files are in memory here")
	}
	if _, _, err := Open(o); err == nil || !strings.Contains(err.Error(), "tmpfs") {
		t.Errorf("memory stage on a disk: %v", err)
	}
}

// TestDiskFor: the disk is told of a file, and of one that is not there yet.
func TestDiskFor(t *testing.T) {
	dir, disk := mounted(t, "mkfs.ext4", "-q")
	if err := os.WriteFile(filepath.Join(dir, "there"), bytes.Repeat([]byte{1}, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"there", "not", "far/from/there"} {
		if on, err := DiskFor(filepath.Join(dir, path)); err != nil || on != filepath.Base(disk) {
			t.Errorf("%s: on %q, %v, want %s", path, on, err, disk)
		}
	}
}
