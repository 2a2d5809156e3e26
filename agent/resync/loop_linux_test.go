package resync

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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
