package scan

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/block"
)

const size = 16 << 20

// loop is a real disk, and the source that tracks it.
func loop(t *testing.T) (capture.Source, capture.Disk) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	path := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", path).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	d := capture.Disk{ID: block.DiskIDFromName(path), Name: "loop-test", Path: path, Size: size, SectorSize: 512, Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)}
	s, resume, err := Open()
	if err != nil || resume.Intact {
		t.Fatal(resume, err)
	}
	if err := s.Track(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := s.Track(t.Context(), d); !errors.Is(err, capture.ErrTracked) {
		t.Errorf("tracked twice: %v", err)
	}
	return s, d
}

func change(t *testing.T, d capture.Disk, how func(f *os.File) error) {
	t.Helper()
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(how(f), f.Sync()); err != nil {
		t.Fatal(err)
	}
}

func arm(t *testing.T, s capture.Source) {
	t.Helper()
	if err := s.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Arm(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func lost(t *testing.T, s capture.Source) bool {
	t.Helper()
	n, lost, err := s.Poll(nil)
	if err != nil || n != 0 {
		t.Fatal(n, err)
	}
	return lost
}

// TestEveryKindOfWriteIsSeen: whatever changes the disk ends the stretch, and what only
// reads it does not.
func TestEveryKindOfWriteIsSeen(t *testing.T) {
	s, d := loop(t)
	for name, how := range map[string]func(f *os.File) error{
		"a byte":    func(f *os.File) error { _, err := f.WriteAt([]byte{1}, 5000); return err },
		"the end":   func(f *os.File) error { _, err := f.WriteAt(make([]byte, 512), size-512); return err },
		"a discard": func(f *os.File) error { return rangeIoctl(f, 0x1277, 1<<20, 1<<20) },
		"zeroing":   func(f *os.File) error { return rangeIoctl(f, 0x127f, 4<<20, 1<<20) },
	} {
		arm(t, s)
		change(t, d, func(f *os.File) error { _, err := f.ReadAt(make([]byte, 4096), 8<<20); return err })
		if _, on := s.Armed(); lost(t, s) || !on {
			t.Errorf("%s: lost before it", name)
		}
		change(t, d, how)
		if _, on := s.Armed(); !lost(t, s) || on {
			t.Errorf("%s was not seen", name)
		}
		h, err := s.Health()
		if err != nil || h.Reason() != capture.NotCaptured || !h.Disks[0].Suspect {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

func rangeIoctl(f *os.File, request uintptr, off, length uint64) error {
	r := [2]uint64{off, length}
	return ioctl(f.Fd(), request, &r)
}

// TestDirtyUntilTheVaultHasIt: all of a disk is in doubt from a write on, until a stretch
// without one was committed.
func TestDirtyUntilTheVaultHasIt(t *testing.T) {
	s, d := loop(t)
	dirty := func() int64 {
		t.Helper()
		set, err := s.Dirty(d.ID)
		if err != nil {
			t.Fatal(err)
		}
		return set.Bytes()
	}
	if dirty() != size {
		t.Error("a disk that nobody knows is not in doubt")
	}
	arm(t, s)
	if err := s.ForgetDirty(); err != nil || dirty() != 0 {
		t.Errorf("%d bytes in doubt after a stretch without a write (%v)", dirty(), err)
	}
	change(t, d, func(f *os.File) error { _, err := f.WriteAt([]byte{2}, 0); return err })
	if dirty() != size {
		t.Error("a write left nothing in doubt")
	}
	if err := s.ForgetDirty(); err != nil || dirty() != size {
		t.Error("a stretch that is broken was forgotten")
	}
	// Written to while nothing was armed.
	arm(t, s)
	if err := errors.Join(s.ForgetDirty(), s.Disarm()); err != nil {
		t.Fatal(err)
	}
	change(t, d, func(f *os.File) error { _, err := f.WriteAt([]byte{3}, 0); return err })
	arm(t, s)
	if dirty() != size || lost(t, s) {
		t.Error("a write before the stretch is forgotten, or taken for one in it")
	}
	if err := s.ForgetDirty(); err != nil {
		t.Fatal(err)
	}
	if err := s.MarkDirty(d.ID, block.NewSet(block.Extent{Len: 4096})); err != nil || dirty() != size {
		t.Errorf("somebody else's doubt: %d bytes, %v", dirty(), err)
	}
}

// TestUncountedDiskIsRefused: where the kernel does not count, nothing can be proved.
func TestUncountedDiskIsRefused(t *testing.T) {
	s, d := loop(t)
	file := "/sys/block/" + filepath.Base(d.Path) + "/queue/iostats"
	if err := errors.Join(s.Untrack(d.ID), os.WriteFile(file, []byte("0"), 0o644)); err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile(file, []byte("1"), 0o644)
	if err := s.Track(t.Context(), d); !errors.Is(err, capture.ErrRefused) || !strings.Contains(err.Error(), "iostats") {
		t.Errorf("tracked: %v", err)
	}
}

// TestGoneDiskIsInDoubt.
func TestGoneDiskIsInDoubt(t *testing.T) {
	sysfs := t.TempDir()
	dir := filepath.Join(sysfs, "8:0")
	put := func(name, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	put("stat", "1 0 8 0 7 0 56 0 0 0 0")
	put("inflight", "       0        0")
	put("size", "2048")
	s, _, err := open(sysfs)
	if err != nil {
		t.Fatal(err)
	}
	d := capture.Disk{ID: block.DiskIDFromName("sda"), Name: "sda", Path: "/dev/sda", Major: 8, Size: 1 << 20}
	if err := s.Track(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	arm(t, s)
	put("stat", "1 0 8 0 8 0 56 0 0 0 0") // a flush
	if lost(t, s) {
		t.Error("a flush is taken for a write")
	}
	put("size", "4096")
	if h, err := s.Health(); err != nil || !h.Disks[0].Resized || h.Disks[0].Size != 2<<20 {
		t.Errorf("%+v, %v", h, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if h, err := s.Health(); !lost(t, s) || err != nil || !h.Disks[0].Gone {
		t.Errorf("a disk that is gone: %+v, %v", h, err)
	}
}

// FuzzStat takes anything for the kernel's counts of a disk. Limit: 32 times the input and
// 1 KiB.
func FuzzStat(f *testing.F) {
	f.Add("  1  0  8  0  7  0  56  0  0  0  0")
	f.Add("1 0 8 0 7 0 56 0 0 0 0 9 0 0 0 0 0")
	f.Add("1 0 8 0 -7")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseStat(s)
		if again, err2 := parseStat(strings.Join(strings.Fields(s), " ")); err == nil && (err2 != nil || again != c) {
			t.Errorf("%q gives %+v, then %+v (%v)", s, c, again, err2)
		}
		if err == nil && !strings.Contains(s, fmt.Sprint(c.written)) && c.written != 0 {
			t.Errorf("%q has no %d", s, c.written)
		}
	})
}

func ioctl(fd, request uintptr, r *[2]uint64) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(r))); errno != 0 {
		return errno
	}
	return nil
}
