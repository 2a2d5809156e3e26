package resync

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// These tests run against the real file systems of this kernel on loop devices, as
// root: what a file system says about free space, and when, is theirs to define.

// loopDisk is a loop device with one file system, on the device itself or on a
// partition of it.
type loopDisk struct {
	t     testing.TB
	image string
	path  string // /dev/loopN
	node  string // where the file system lies: path, or its partition
	start int64  // of the file system on the disk, bytes
	fs    string
	dir   string // mount point
	size  int64
}

// must runs a command of the system and fails the test if it fails.
func must(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func scratch(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for loop devices and mounts")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("needs loop devices")
	}
	if err := os.MkdirAll("/tmp/resync", 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp/resync", "test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// attach makes a loop device of an image until the end of the test.
func attach(t testing.TB, image string, args ...string) string {
	path := must(t, "losetup", append(args, "--find", "--show", image)...)
	t.Cleanup(func() { must(t, "losetup", "--detach", path) })
	return path
}

func (d *loopDisk) mount(opts ...string) {
	d.t.Helper()
	must(d.t, "mount", append(opts, d.node, d.dir)...)
}

// newLoopDisk makes a disk of 336 MiB (XFS wants 300) with a mounted file system; start > 0 puts it on
// a partition that begins there and ends 16 MiB before the disk.
func newLoopDisk(t testing.TB, fs string, start int64, mkfs ...string) *loopDisk {
	t.Helper()
	dir := scratch(t)
	d := &loopDisk{t: t, image: filepath.Join(dir, "disk.img"), dir: filepath.Join(dir, "mnt"), fs: fs, start: start, size: 336 << 20}
	must(t, "truncate", "--size", fmt.Sprint(d.size), d.image)
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d.path = attach(t, d.image, "--partscan")
	d.node = d.path
	if start > 0 {
		must(t, "addpart", d.path, "1", fmt.Sprint(start/512), fmt.Sprint((d.size-start-16<<20)/512))
		d.node += "p1"
	}
	must(t, "mkfs."+fs, append(mkfs, "-q", d.node)...)
	d.mount()
	t.Cleanup(func() { _ = unix.Unmount(d.dir, unix.MNT_DETACH) })
	return d
}

func (d *loopDisk) target() Target {
	return Target{ID: block.DiskIDFromName(d.path), Path: d.path, Size: d.size}
}

// write makes a file of random bytes.
func (d *loopDisk) write(name string, size int64) []byte {
	d.t.Helper()
	b := make([]byte, size)
	_, _ = rand.Read(b)
	f, err := os.Create(filepath.Join(d.dir, name))
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		d.t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		d.t.Fatal(err)
	}
	return b
}

// image is a replica in a file, into which base frames are applied.
type image struct {
	t    testing.TB
	f    *os.File
	hook func(n uint64) // called before frame n
	n    uint64
	last Cursor
	buf  []byte
}

func newImage(t testing.TB, path string, size int64) *image {
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return &image{t: t, f: f}
}

func (m *image) SendBase(_ context.Context, raw []byte, n uint64, c Cursor) error {
	if m.hook != nil {
		m.hook(n)
	}
	f, err := frame.Parse(raw)
	if err != nil {
		return err
	}
	if m.buf, err = f.Payload(m.buf); err != nil {
		return err
	}
	for x := range f.All() {
		data := make([]byte, x.Len)
		if x.Op == frame.OpWrite {
			data = m.buf[x.DataOff : x.DataOff+x.Len]
		}
		if _, err := m.f.WriteAt(data, x.Off); err != nil {
			return err
		}
	}
	m.n, m.last = n, c
	return nil
}

func (m *image) RangeHashes(_ context.Context, _ block.DiskID, off, length, granule int64) ([]block.Hash16, error) {
	b := make([]byte, length)
	if _, err := m.f.ReadAt(b, off); err != nil {
		return nil, err
	}
	return block.AppendHashes(nil, b, granule), nil
}

// boot mounts the replica's file system as a machine would after a power cut, and
// checks it.
func (d *loopDisk) boot(replica string) (dir string) {
	d.t.Helper()
	args := []string{}
	if d.start > 0 {
		args = append(args, "--offset", fmt.Sprint(d.start), "--sizelimit", fmt.Sprint(d.size-d.start-16<<20))
	}
	node := attach(d.t, replica, args...)
	dir = replica + ".mnt"
	if err := os.Mkdir(dir, 0o755); err != nil {
		d.t.Fatal(err)
	}
	opts := []string{"-t", d.fs}
	if d.fs == "xfs" {
		opts = append(opts, "-o", "nouuid")
	}
	must(d.t, "mount", append(opts, node, dir)...) // replays the journal
	must(d.t, "umount", dir)
	if d.fs == "xfs" {
		must(d.t, "xfs_repair", "-n", node)
	} else {
		must(d.t, "e2fsck", "-fn", node)
	}
	must(d.t, "mount", append(opts, node, dir)...)
	d.t.Cleanup(func() { must(d.t, "umount", dir) })
	return dir
}

func same(t *testing.T, dir, name string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s in the replica: %d bytes, want %d, equal %v, %v", name, len(got), len(want), bytes.Equal(got, want), err)
	}
}

var places = []struct {
	fs    string
	start int64
	mkfs  []string
}{
	{fs: "ext4"},
	{fs: "ext4", start: 1 << 20, mkfs: []string{"-b", "1024"}},
	{fs: "xfs"},
	{fs: "xfs", start: 1<<20 + 512, mkfs: []string{"-m", "rmapbt=0"}},
	{fs: "xfs", start: 1 << 20, mkfs: []string{"-m", "rmapbt=1"}},
}

// TestLoopFullCopyThenHash copies a file system's used blocks, changes some files,
// and repairs by hash compare. Both replicas mount, are clean and hold every file.
func TestLoopFullCopyThenHash(t *testing.T) {
	for _, p := range places {
		t.Run(fmt.Sprintf("%s@%d", p.fs, p.start), func(t *testing.T) {
			d := newLoopDisk(t, p.fs, p.start, p.mkfs...)
			keep, gone := d.write("keep", 20<<20+123), d.write("gone", 30<<20)
			must(t, "sync", "-f", d.dir)
			os.Remove(filepath.Join(d.dir, "gone"))
			target := d.target()
			target.Fresh = true
			rep := newImage(t, d.image+".full", d.size)
			job := Job{Machine: machine, Epoch: 1, Method: frame.MethodFull, Disks: []Target{target}}
			res, err := Run(t.Context(), job, rep, nil, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if res.Free < int64(len(gone)) || res.Read > d.size/2 {
				t.Errorf("free space was not left out: %+v", res)
			}
			same(t, d.boot(rep.f.Name()), "keep", keep)

			more := d.write("more", 5<<20)
			must(t, "sync", "-f", d.dir)
			again := newImage(t, d.image+".hash", d.size)
			if _, err := io.Copy(again.f, io.NewSectionReader(rep.f, 0, d.size)); err != nil {
				t.Fatal(err)
			}
			job.Epoch, job.Method = 2, frame.MethodHash
			if res, err = Run(t.Context(), job, again, again, Options{}); err != nil {
				t.Fatal(err)
			}
			if res.Bytes < int64(len(more)) || res.Bytes > int64(len(more))+8<<20 {
				t.Errorf("hash compare sent %d bytes for %d changed", res.Bytes, len(more))
			}
			dir := d.boot(again.f.Name())
			same(t, dir, "keep", keep)
			same(t, dir, "more", more)
		})
	}
}

// masked is the disk as a power cut would leave it now, without what free names.
func (d *loopDisk) masked(path string, free *block.Set) *image {
	d.t.Helper()
	dev, err := openDevice(d.target())
	if err != nil {
		d.t.Fatal(err)
	}
	defer dev.Close()
	m := newImage(d.t, path, d.size)
	buf := aligned(chunkSize)
	for off := int64(0); off < d.size; off += chunkSize {
		if _, err := dev.ReadAt(buf, off); err != nil {
			d.t.Fatal(err)
		}
		for e := range outside(free, d.size).Within(block.Extent{Off: off, Len: chunkSize}) {
			if _, err := m.f.WriteAt(buf[e.Off-off:e.End()-off], e.Off); err != nil {
				d.t.Fatal(err)
			}
		}
	}
	return m
}

// waitFree waits until the file system calls at least n more bytes free than before,
// and returns its word on it, without any sync.
func (d *loopDisk) waitFree(before, n int64) *block.Set {
	d.t.Helper()
	dev, err := openDevice(d.target())
	if err != nil {
		d.t.Fatal(err)
	}
	defer dev.Close()
	mounts, err := dev.(*linuxDevice).mounts()
	if err != nil || len(mounts) != 1 {
		d.t.Fatalf("mounts %+v, %v", mounts, err)
	}
	for range 100 {
		fd, err := mounts[0].open()
		if err != nil {
			d.t.Fatal(err)
		}
		free, err := fsmap(d.t.Context(), fd, mounts[0].part)
		unix.Close(fd)
		if err != nil {
			d.t.Fatal(err)
		}
		if free.Bytes() >= before+n {
			return free
		}
		time.Sleep(20 * time.Millisecond) // XFS frees in the background
	}
	return nil
}

// TestLoopFreeButStillReferenced shows the reason for GETFSMAP before syncfs, and that
// the order is enough. A deleted file's blocks are free in memory while the disk still
// has the file: XFS says so at once, ext4 only after its journal's commit. A copy without them, cut now, brings the file back
// with wrong bytes. After Run a cut brings either no file or the right one.
func TestLoopFreeButStillReferenced(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			d := newLoopDisk(t, fs, 0)
			keep, victim := d.write("keep", 4<<20), d.write("victim", 64<<20)
			must(t, "sync", "-f", d.dir)
			before := d.waitFree(0, 1).Bytes()
			if err := os.Remove(filepath.Join(d.dir, "victim")); err != nil {
				t.Fatal(err)
			}
			if free := d.waitFree(before, int64(len(victim))-1<<20); free != nil {
				early := d.masked(d.image+".early", free)
				got, err := os.ReadFile(filepath.Join(d.boot(early.f.Name()), "victim"))
				if fs == "xfs" && (err != nil || bytes.Equal(got, victim)) {
					t.Errorf("this test no longer shows the hazard: victim %d bytes, equal %v, %v", len(got), bytes.Equal(got, victim), err)
				}
			} else if fs == "xfs" {
				t.Error("XFS did not call the deleted file's blocks free")
			}

			dir := d.boot(d.fullCopy(d.image+".run", Options{}).f.Name())
			same(t, dir, "keep", keep)
			if got, err := os.ReadFile(filepath.Join(dir, "victim")); err == nil && !bytes.Equal(got, victim) {
				t.Errorf("the deleted file came back with wrong bytes (%d)", len(got))
			}
		})
	}
}

func (d *loopDisk) fullCopy(path string, opt Options) *image {
	d.t.Helper()
	target := d.target()
	target.Fresh = true
	rep := newImage(d.t, path, d.size)
	job := Job{Machine: machine, Epoch: 1, Method: frame.MethodFull, Disks: []Target{target}}
	if _, err := Run(d.t.Context(), job, rep, nil, opt); err != nil {
		d.t.Fatal(err)
	}
	return rep
}

// TestLoopDeletionBetweenTheSteps: a file deleted after GETFSMAP and before syncfs is
// copied. In the other order its blocks would be free and still referenced.
func TestLoopDeletionBetweenTheSteps(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			d := newLoopDisk(t, fs, 0)
			victim := d.write("victim", 64<<20)
			must(t, "sync", "-f", d.dir)
			before := d.waitFree(0, 1).Bytes()
			rep := d.fullCopy(d.image+".run", Options{Open: func(t Target) (Device, error) {
				dev, err := openDevice(t)
				if err == nil {
					dev.(*linuxDevice).between = func() {
						os.Remove(filepath.Join(d.dir, "victim"))
						d.waitFree(before, int64(len(victim))-1<<20)
					}
				}
				return dev, err
			}})
			if got, err := os.ReadFile(filepath.Join(d.boot(rep.f.Name()), "victim")); err == nil && !bytes.Equal(got, victim) {
				t.Errorf("the deleted file came back with wrong bytes (%d)", len(got))
			}
		})
	}
}

// TestLoopUnmountDuringCopy: what was left out on the word of a file system that went
// away is read after all.
func TestLoopUnmountDuringCopy(t *testing.T) {
	d := newLoopDisk(t, "ext4", 1<<20)
	d.write("some", 40<<20)
	must(t, "sync", "-f", d.dir)
	target := d.target()
	rep := newImage(t, d.image+".rep", d.size)
	rep.hook = func(n uint64) {
		if n == 2 {
			must(t, "umount", d.dir)
		}
	}
	job := Job{Machine: machine, Epoch: 1, Method: frame.MethodFull, Disks: []Target{target}}
	res, err := Run(t.Context(), job, rep, nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if res.Free != 0 || res.Read < d.size || rep.last.Layout != wholeDisk {
		t.Errorf("free space was believed after the unmount: %+v, cursor %+v", res, rep.last)
	}
}

// TestLoopLayoutNamesEveryChange: unmounting, mounting and growing change the name.
func TestLoopLayoutNamesEveryChange(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			d := newLoopDisk(t, fs, 0)
			dev, err := openDevice(d.target())
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			layout := func() string {
				l, err := dev.Layout()
				if err != nil {
					t.Fatal(err)
				}
				return l
			}
			first := layout()
			if u, err := dev.Usage(t.Context()); err != nil || u.Layout != first || first == wholeDisk {
				t.Fatalf("usage %+v, %v, layout %q", u, err, first)
			}
			d.write("file", 1<<20)
			if l := layout(); l != first {
				t.Errorf("writing a file made %q of %q", l, first)
			}
			must(t, "umount", d.dir)
			if l := layout(); l != wholeDisk {
				t.Errorf("unmounted, layout is %q", l)
			}
			d.mount()
			if l := layout(); l != first {
				t.Errorf("mounted again, layout is %q, was %q", l, first)
			}
			must(t, "truncate", "--size", fmt.Sprint(d.size*2), d.image)
			must(t, "losetup", "--set-capacity", d.path)
			if fs == "xfs" { // resize2fs wants CAP_SYS_RESOURCE, which a container may lack
				must(t, "xfs_growfs", d.dir)
				if l := layout(); l == first {
					t.Errorf("grown, layout is still %q", l)
				}
			}
			if _, err := Run(t.Context(), Job{Machine: machine, Epoch: 1, Method: frame.MethodFull, Disks: []Target{d.target()}}, newImage(t, d.image+".rep", 0), nil, Options{}); err == nil {
				t.Error("a disk that grew was copied with its old size")
			}
		})
	}
}

// TestLoopFrozen: freezing is how backups stop a file system. A copy beside it does not
// hang, and the frozen file system's word is good: it synced when it froze.
func TestLoopFrozen(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			d := newLoopDisk(t, fs, 0)
			d.write("file", 1<<20)
			must(t, "fsfreeze", "--freeze", d.dir)
			defer func() { must(t, "fsfreeze", "--unfreeze", d.dir) }()
			dev, err := openDevice(d.target())
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if u, err := dev.Usage(ctx); err != nil || u.Layout == wholeDisk {
				t.Errorf("frozen: layout %q, whole %v, %v", u.Layout, u.Whole, err)
			}
		})
	}
}

// TestLoopOddSectors: sectors of 4 KiB, and a disk whose end is no multiple of 4 KiB.
func TestLoopOddSectors(t *testing.T) {
	for _, c := range []struct {
		sector string
		size   int64
	}{{"4096", 8 << 20}, {"512", 8<<20 + 1536}} {
		dir := scratch(t)
		d := &loopDisk{t: t, image: filepath.Join(dir, "disk.img"), size: c.size}
		content := make([]byte, c.size)
		_, _ = rand.Read(content)
		if err := os.WriteFile(d.image, content, 0o644); err != nil {
			t.Fatal(err)
		}
		d.path = attach(t, d.image, "--sector-size", c.sector)
		rep := newImage(t, d.image+".rep", d.size)
		for _, method := range []frame.Method{frame.MethodFull, frame.MethodHash} {
			job := Job{Machine: machine, Epoch: 1, Method: method, Disks: []Target{d.target()}}
			res, err := Run(t.Context(), job, rep, rep, Options{})
			if err != nil {
				t.Fatalf("sectors of %s: %v", c.sector, err)
			}
			if method == frame.MethodHash && res.Frames != 0 {
				t.Errorf("sectors of %s: hash compare of equal disks sent %+v", c.sector, res)
			}
		}
		if got, err := os.ReadFile(rep.f.Name()); err != nil || !bytes.Equal(got, content) {
			t.Errorf("sectors of %s: replica differs, %v", c.sector, err)
		}
	}
}

// TestLoopWholeWhereNotUnderstood: what GETFSMAP cannot speak for is read whole, and
// the plan says why.
func TestLoopWholeWhereNotUnderstood(t *testing.T) {
	t.Run("btrfs", func(t *testing.T) {
		d := newLoopDisk(t, "btrfs", 0)
		d.expectWhole("")
	})
	t.Run("ext2", func(t *testing.T) {
		d := newLoopDisk(t, "ext2", 0)
		d.expectWhole("not understood")
	})
	t.Run("unmounted", func(t *testing.T) {
		d := newLoopDisk(t, "ext4", 0)
		must(t, "umount", d.dir)
		d.expectWhole("")
	})
	t.Run("hidden", func(t *testing.T) {
		d := newLoopDisk(t, "ext4", 0)
		must(t, "mount", "-t", "tmpfs", "none", d.dir)
		defer func() { must(t, "umount", d.dir) }()
		d.expectWhole("mounted over it")
	})
	t.Run("hidden in one of two places", func(t *testing.T) {
		d := newLoopDisk(t, "ext4", 0)
		second := d.dir + ".second"
		if err := os.Mkdir(second, 0o755); err != nil {
			t.Fatal(err)
		}
		must(t, "mount", "--bind", d.dir, second)
		defer func() { must(t, "umount", second) }()
		must(t, "mount", "-t", "tmpfs", "none", d.dir)
		defer func() { must(t, "umount", d.dir) }()
		dev, err := openDevice(d.target())
		if err != nil {
			t.Fatal(err)
		}
		defer dev.Close()
		if u, err := dev.Usage(t.Context()); err != nil || u.Layout == wholeDisk {
			t.Errorf("%+v, %v", u, err)
		}
	})
	t.Run("external log", func(t *testing.T) {
		dir := scratch(t)
		image := filepath.Join(dir, "log.img")
		must(t, "truncate", "--size", "64M", image)
		logdev := attach(t, image)
		d := newLoopDisk(t, "xfs", 0)
		must(t, "umount", d.dir)
		must(t, "mkfs.xfs", "-q", "-f", "-l", "logdev="+logdev, d.node)
		d.mount("-o", "logdev="+logdev)
		d.expectWhole("several devices")
		must(t, "umount", d.dir)
	})
}

func (d *loopDisk) expectWhole(why string) {
	d.t.Helper()
	dev, err := openDevice(d.target())
	if err != nil {
		d.t.Fatal(err)
	}
	defer dev.Close()
	u, err := dev.Usage(d.t.Context())
	if err != nil || u.Layout != wholeDisk || u.Free.Count() != 0 || !strings.Contains(strings.Join(u.Whole, ";"), why) {
		d.t.Errorf("%+v, %v, want whole because %q", u, err, why)
	}
}
