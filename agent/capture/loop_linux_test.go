package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// needRoot skips where capture cannot be tried at all.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("capture needs root: eBPF and loop devices")
	}
}

// refusesZeroes holds the paths of loop devices that cannot zero.
var refusesZeroes sync.Map

// newLoop makes a loop device over a file of zeros in dir, gone with the test.
func newLoop(t testing.TB, dir string, size int64) Disk {
	t.Helper()
	needRoot(t)
	path := filepath.Join(dir, fmt.Sprintf("disk-%d.img", time.Now().UnixNano()))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	must(t, err)
	defer func() { _ = f.Close() }()
	must(t, f.Truncate(size))
	dev := attachLoop(t, f)
	t.Cleanup(func() {
		detachLoop(dev)
		refusesZeroes.Delete(dev)
		_ = os.Remove(path)
	})
	// A loop device finds out with the first zeroing that its file system has none
	// (tmpfs), or forgets it each time (old kernels). A refused zeroing is a loss.
	disk := openDirect(t, dev)
	must(t, blkRange(disk, blkZeroout, 0, 1<<20))
	must(t, disk.Close())
	if unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20) != nil {
		refusesZeroes.Store(dev, true)
	}
	d, err := Resolve(dev)
	must(t, err)
	return d
}

func attachLoop(t testing.TB, f *os.File) string {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	must(t, err)
	defer func() { _ = control.Close() }()
	for range 100 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		must(t, err)
		dev := fmt.Sprintf("/dev/loop%d", n)
		loop, err := os.OpenFile(dev, os.O_RDWR, 0)
		must(t, err)
		config := unix.LoopConfig{Fd: uint32(f.Fd())}
		config.Info.Flags = unix.LO_FLAGS_PARTSCAN
		copy(config.Info.File_name[:], f.Name())
		err = configureLoop(int(loop.Fd()), &config)
		_ = loop.Close()
		if err == nil {
			return dev
		}
		if !errors.Is(err, unix.EBUSY) {
			t.Fatal(err)
		}
	}
	t.Fatal("no free loop device")
	return ""
}

func detachLoop(dev string) {
	for range 200 {
		f, err := os.Open(dev)
		if err != nil {
			return
		}
		err = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
		_ = f.Close()
		if err == nil || errors.Is(err, unix.ENXIO) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// memory is a directory on tmpfs.
func memory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "understudy-capture-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// openSource begins a capture of its own, removed with the test.
func openSource(t testing.TB, ringBytes int) *source {
	t.Helper()
	needRoot(t)
	s, r, err := Open(Options{
		Instance:  strings.NewReplacer("/", "-", ".", "-").Replace(t.Name()),
		RingBytes: ringBytes,
		Log:       slog.New(slog.NewTextHandler(testLog{t}, nil)),
	})
	must(t, err)
	if r.Intact {
		t.Fatal("resumed the capture of an earlier test")
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	return s.(*source)
}

type testLog struct{ testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.Logf("%s", bytes.TrimSpace(b))
	return len(b), nil
}

// tracking opens a capture of the disks and arms it.
func tracking(t testing.TB, ringBytes int, disks ...Disk) *source {
	t.Helper()
	s := openSource(t, ringBytes)
	for _, d := range disks {
		must(t, s.Track(context.Background(), d))
	}
	_, err := s.Arm(context.Background())
	must(t, err)
	return s
}

// replica applies records to images of the disks, as a recovery would.
type replica struct {
	images  map[block.DiskID][]byte
	records int
	bytes   int64
	pos     uint64
}

func newReplica(disks ...Disk) *replica {
	r := &replica{images: map[block.DiskID][]byte{}}
	for _, d := range disks {
		r.images[d.ID] = make([]byte, d.Size)
	}
	return r
}

func (r *replica) apply(rec Record) bool {
	image := r.images[rec.Disk][rec.Off:rec.End()]
	if rec.Op == frame.OpWrite {
		copy(image, rec.Data)
	} else {
		clear(image)
	}
	r.records++
	r.bytes += rec.Len
	r.pos = rec.Pos
	return true
}

// drain polls until the source is empty and advances.
func (r *replica) drain(t testing.TB, s Source) (lost bool) {
	t.Helper()
	for {
		n, lost, err := s.Poll(r.apply)
		must(t, err)
		if n > 0 {
			must(t, s.Advance(r.pos))
		}
		if lost || n == 0 {
			return lost
		}
	}
}

// follow drains until stop is closed, and once more.
func (r *replica) follow(t testing.TB, s Source, stop <-chan struct{}) {
	for {
		if r.drain(t, s) {
			h, err := s.Health()
			t.Errorf("lost a write: %+v, %v", h, err)
			return
		}
		select {
		case <-stop:
			if r.drain(t, s) {
				t.Error("lost a write")
			}
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// equal compares a replica with the disk itself, read past every cache.
func (r *replica) equal(t testing.TB, d Disk) {
	t.Helper()
	if at := r.difference(t, d); at >= 0 {
		t.Fatalf("%s: replica differs from the disk at byte %d", d.Path, at)
	}
}

func (r *replica) difference(t testing.TB, d Disk) int64 {
	t.Helper()
	return firstDifference(r.images[d.ID], readDisk(t, d))
}

func firstDifference(a, b []byte) int64 {
	const step = 4096
	for off := 0; off < len(a); off += step {
		end := min(off+step, len(a))
		if !bytes.Equal(a[off:end], b[off:end]) {
			return int64(off)
		}
	}
	return -1
}

func readDisk(t testing.TB, d Disk) []byte {
	t.Helper()
	f := openDirect(t, d.Path)
	defer func() { _ = f.Close() }()
	buf := aligned(int(d.Size))
	for off := 0; off < len(buf); off += 1 << 20 {
		_, err := f.ReadAt(buf[off:min(off+1<<20, len(buf))], int64(off))
		must(t, err)
	}
	return buf
}

func openDirect(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	must(t, err)
	return f
}

// aligned is memory fit for O_DIRECT.
func aligned(n int) []byte {
	b := make([]byte, n+4096)
	skip := 4096 - int(uintptr(unsafe.Pointer(&b[0]))&4095)
	return b[skip:][:n:n]
}

func fill(b []byte, r *rand.Rand) {
	for i := 0; i+8 <= len(b); i += 8 {
		*(*uint64)(unsafe.Pointer(&b[i])) = r.Uint64()
	}
}

// BLKDISCARD and BLKZEROOUT on [off, off+n).
func blkRange(f *os.File, request uint, off, n int64) error {
	span := [2]uint64{uint64(off), uint64(n)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(unsafe.Pointer(&span)))
	if errno != 0 {
		return errno
	}
	return nil
}
