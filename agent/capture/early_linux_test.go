package capture

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
)

// freshLoop is a loop device that the kernel has just made: it has counted no write yet.
func freshLoop(t *testing.T) Disk {
	t.Helper()
	needRoot(t)
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	must(t, err)
	defer control.Close()
	n := 700
	for ; n < 800; n++ {
		if err = unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_ADD, n); !errors.Is(err, unix.EEXIST) {
			break
		}
	}
	must(t, err)
	t.Cleanup(func() {
		again, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
		must(t, err)
		defer again.Close()
		if err := unix.IoctlSetInt(int(again.Fd()), unix.LOOP_CTL_REMOVE, n); err != nil {
			t.Errorf("removing loop%d: %v", n, err)
		}
	})
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.img"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(16<<20))
	dev := fmt.Sprintf("/dev/loop%d", n)
	loop, err := os.OpenFile(dev, os.O_RDWR, 0)
	must(t, err)
	config := unix.LoopConfig{Fd: uint32(f.Fd())}
	copy(config.Info.File_name[:], f.Name())
	err = configureLoop(int(loop.Fd()), &config)
	must(t, errors.Join(err, loop.Close()))
	t.Cleanup(func() { detachLoop(dev) })
	d, err := Resolve(dev)
	must(t, err)
	return d
}

func touch(t *testing.T, d Disk, off int64) {
	t.Helper()
	f := openDirect(t, d.Path)
	defer f.Close()
	b := directBuffer(4096)
	copy(b, "written")
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// TestEarly: a disk that nobody has written to in this boot is captured from its first
// write on; one that somebody has is named; one that comes later is added.
func TestEarly(t *testing.T) {
	still, busy, late := freshLoop(t), freshLoop(t), freshLoop(t)
	touch(t, busy, 0)
	s := openSource(t, 1<<20)
	o, err := s.early(t.Context(), []Disk{still, busy})
	must(t, err)
	if b := o.Disks[still.ID]; b.Missed != "" || len(b.Print) == 0 {
		t.Errorf("the disk nobody wrote to: %+v", b)
	}
	if b := o.Disks[busy.ID]; !strings.Contains(b.Missed, "before it was tracked") {
		t.Errorf("the disk written to before: %+v", b)
	}
	touch(t, still, 8<<20)
	if n, lost, err := s.Poll(func(r Record) bool { return r.Disk == still.ID && r.Off == 8<<20 }); n != 1 || lost || err != nil {
		t.Errorf("%d records, lost %t, %v", n, lost, err)
	}
	if _, err := s.early(t.Context(), []Disk{still, busy, late}); err != nil {
		t.Fatal(err)
	}
	must(t, s.Close())
	again, r, err := Open(Options{Instance: filepath.Base(s.dir), Existing: true})
	must(t, err)
	t.Cleanup(func() { must(t, again.Remove()) })
	armed, goesOn := again.Armed()
	if r.Origin == nil || !goesOn || r.Origin.Armed.Ring != armed.Ring || r.Origin.Armed.Generation != armed.Generation {
		t.Fatalf("the agent finds %+v, armed %+v %t", r.Origin, armed, goesOn)
	}
	if len(r.Origin.Disks) != 3 || r.Origin.Disks[late.ID].Missed != "" || r.Origin.Disks[still.ID].Missed != "" {
		t.Errorf("the agent finds %+v", r.Origin.Disks)
	}
}

// TestEarlyIsNotTheAgents: what the agent of this boot has begun is not called early.
func TestEarlyIsNotTheAgents(t *testing.T) {
	d := freshLoop(t)
	s := openSource(t, 1<<20)
	must(t, s.Track(t.Context(), d))
	if _, err := s.early(t.Context(), []Disk{d}); !errors.Is(err, errArmed) {
		t.Errorf("taken for early: %v", err)
	}
}

func TestExistingBeginsNothing(t *testing.T) {
	needRoot(t)
	_, _, err := Open(Options{Instance: "TestExistingBeginsNothing", Existing: true})
	if !errors.Is(err, ErrNothing) {
		t.Errorf("open: %v", err)
	}
	if _, err := os.Stat("/sys/fs/bpf/understudy/TestExistingBeginsNothing/live"); err == nil {
		t.Error("it left pins")
	}
	_ = os.Remove("/sys/fs/bpf/understudy/TestExistingBeginsNothing")
}

func TestCountedWrites(t *testing.T) {
	const quiet = "987 353 77618 820 0 0 0 0 0 824 887 0 0 0 0 0 0"
	for name, c := range map[string]struct{ stat, says string }{
		"quiet":     {quiet, ""},
		"write":     {"987 353 77618 820 1 0 8 0 0 824 887 0 0 0 0 0 0", "before it was tracked"},
		"discard":   {"987 353 77618 820 0 0 0 0 0 824 887 1 0 8 0 0 0", "before it was tracked"},
		"old stat":  {"987 353 77618 820 0 0 0 0 0 824 887", "does not count discards"},
		"only read": {"1 0 8 0 0 0 0 0 0 0 0 0 0 0 0 7 3", ""},
	} {
		err := countedWrites("/dev/sda", strings.Fields(c.stat))
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), strings.Fields(c.says)[0]) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// TestPrint: whoever writes to a superblock's place is seen, and the journal is not.
func TestPrint(t *testing.T) {
	d := freshLoop(t)
	before, err := TakePrint(d)
	must(t, err)
	for _, off := range []int64{0, 64 << 10, d.Size - 4096, d.Size - (32 << 10)} {
		touch(t, d, off)
		now, err := TakePrint(d)
		must(t, err)
		if at, differs := before.Differs(now); !differs || at > off || at+printPiece <= off {
			t.Errorf("written at %d, differs at %d, %t", off, at, differs)
		}
		own := before.Without([]block.Extent{{Off: off, Len: 4096}})
		if at, differs := own.Differs(now); differs {
			t.Errorf("the journal's own place at %d is looked at: %d", off, at)
		}
		before = now
	}
	touch(t, d, 1<<20)
	now, err := TakePrint(d)
	must(t, err)
	if at, differs := before.Differs(now); differs {
		t.Errorf("differs at %d after a write elsewhere", at)
	}
}
