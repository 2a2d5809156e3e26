package capture

import (
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestPartitions: writes through a partition arrive once, at their place on the
// whole disk.
func TestPartitions(t *testing.T) {
	d := newLoop(t, memory(t), 64<<20)
	must(t, addPartition(d.Path, 1, 1<<20, 20<<20))
	must(t, addPartition(d.Path, 2, 21<<20+512, 40<<20))
	parts := []string{d.Path + "p1", d.Path + "p2"}
	for _, p := range parts {
		waitFor(t, p)
		if _, err := Resolve(p); err == nil {
			t.Fatalf("%s resolved as a whole disk", p)
		}
	}
	s := tracking(t, 64<<20, d)
	r := newReplica(d)
	for i, p := range parts {
		if _, refuses := refusesZeroes.Load(d.Path); refuses {
			refusesZeroes.Store(p, true)
		}
		scribble(t, Disk{Path: p, Size: 18 << 20}, 2, 40, uint64(i))
	}
	must(t, s.Barrier(t.Context()))
	if r.drain(t, s) {
		t.Fatal("lost a write")
	}
	r.equal(t, d)
	if r.records == 0 {
		t.Fatal("nothing was captured")
	}
	h, err := s.Health()
	must(t, err)
	if h.Disks[0].Submitted != h.Disks[0].Issued {
		t.Fatalf("submitted %d bytes, issued %d", h.Disks[0].Submitted, h.Disks[0].Issued)
	}
}

// addPartition tells the kernel of a partition, without a table: not every kernel
// can read one.
func addPartition(dev string, number int32, off, n int64) error {
	const blkpg, blkpgAdd = 0x1269, 1
	partition := struct {
		start, length int64
		number        int32
		names         [128]byte
	}{start: off, length: n, number: number}
	arg := struct {
		op, flags, datalen int32
		data               unsafe.Pointer
	}{op: blkpgAdd, datalen: int32(unsafe.Sizeof(partition)), data: unsafe.Pointer(&partition)}
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkpg, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return errno
	}
	return nil
}

func waitFor(t testing.TB, path string) {
	t.Helper()
	for range 100 {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%s did not appear", path)
}

// TestNamesStay: a disk keeps its name and id when it comes back under another
// path, and another file is another disk.
func TestNamesStay(t *testing.T) {
	needRoot(t)
	dir := memory(t)
	f, err := os.Create(filepath.Join(dir, "disk.img"))
	must(t, err)
	defer func() { _ = f.Close() }()
	must(t, f.Truncate(16<<20))
	first := attachLoop(t, f)
	a, err := Resolve(first)
	must(t, err)
	byName, err := Resolve(a.Name)
	must(t, err)
	byID, err := Resolve(a.ID.String())
	must(t, err)
	if byName != a || byID != a {
		t.Fatalf("%+v by path, %+v by name, %+v by id", a, byName, byID)
	}
	detachLoop(first)
	if _, err := Resolve(a.Name); err == nil {
		t.Fatal("resolved a disk that is not there")
	}
	other := newLoop(t, dir, 16<<20) // takes the path
	again := attachLoop(t, f)
	defer detachLoop(again)
	b, err := Resolve(again)
	must(t, err)
	if b.ID != a.ID || b.Name != a.Name {
		t.Fatalf("%s came back as %s", a.Name, b.Name)
	}
	if other.ID == a.ID {
		t.Fatal("two files, one id")
	}
	for _, bad := range []string{"/dev/null", "/dev/nothing", "/etc", "nothing"} {
		if _, err := Resolve(bad); err == nil {
			t.Errorf("resolved %s", bad)
		}
	}
}
