package recovery_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/controlplane/recovery"
	"github.com/understudy-dr/understudy/controlplane/recovery/recoverytest"
	"github.com/understudy-dr/understudy/controlplane/recovery/vhd"
	"github.com/understudy-dr/understudy/pkg/block"
)

const mib = 1 << 20

// history makes one disk at n positions; each differs from the one before in some
// writes and some zeroing, and where sizes has an entry also in size.
func history(seed uint64, sizes ...int64) []*recoverytest.Disk {
	r := rand.New(rand.NewPCG(seed, 1))
	var all []*recoverytest.Disk
	var last []byte
	for i, size := range sizes {
		data := make([]byte, size)
		copy(data, last)
		for range 6 {
			scribble(r, data)
		}
		all = append(all, &recoverytest.Disk{Data: data, Position: block.Position{Epoch: 1, Seq: block.Seq(10 * (i + 1))}})
		last = data
	}
	for _, d := range all {
		d.Others = all
	}
	return all
}

// scribble overwrites a random stretch with noise or with zeros.
func scribble(r *rand.Rand, data []byte) {
	off := r.Int64N(int64(len(data)))
	end := min(off+r.Int64N(int64(len(data))/6)+1, int64(len(data)))
	noise := r.IntN(3) > 0
	for i := off; i < end; i++ {
		data[i] = 0
		if noise {
			data[i] = byte(r.Uint32())
		}
	}
}

func disk(d *recoverytest.Disk, name string) recovery.Disk {
	return recovery.Disk{
		Origin: recovery.Origin{
			Vault: "vault-1", Machine: block.MachineID{1}, Disk: block.DiskIDFromName(name), Name: name, Position: d.Position,
		},
		Image: d,
	}
}

// mustHold checks a target byte for byte, its footer if it has one, and its sidecar.
func mustHold(t *testing.T, target recovery.Target, d *recoverytest.Disk) {
	t.Helper()
	got, err := os.ReadFile(target.Path)
	if err != nil {
		t.Fatal(err)
	}
	if target.Format == recovery.FixedVHD {
		body := int64(len(got)) - vhd.FooterSize
		f, err := vhd.Decode(got[body:])
		if err != nil || f.Size != body || body != vhd.DiskSize(d.Size()) {
			t.Fatalf("footer %+v, %v, body of %d bytes", f, err, body)
		}
		if len(bytes.TrimLeft(got[d.Size():body], "\x00")) > 0 {
			t.Fatal("the padding is not zero")
		}
		got = got[:d.Size()]
	}
	if !bytes.Equal(got, d.Data) {
		for i := range got {
			if i >= len(d.Data) || got[i] != d.Data[i] {
				t.Fatalf("%s (%d bytes) differs from the image (%d bytes) at byte %d", target.Path, len(got), len(d.Data), i)
			}
		}
		t.Fatalf("%s has %d bytes, the image %d", target.Path, len(got), len(d.Data))
	}
	side, err := recovery.ReadSidecar(target.Path)
	if err != nil || side.State != recovery.StateComplete || side.Position != d.Position {
		t.Fatalf("sidecar %+v, %v", side, err)
	}
	if _, err := os.Lstat(target.Path + ".understudy-partial"); err == nil {
		t.Fatal("a partial file is left")
	}
}

func TestMaterialiseIsExactSparseAndIdempotent(t *testing.T) {
	d := history(1, 33*mib+512)[0]
	for _, format := range []recovery.Format{recovery.Raw, recovery.FixedVHD} {
		target := recovery.Target{Path: filepath.Join(t.TempDir(), "disk"), Format: format}
		var last recovery.Progress
		res, err := recovery.Materialise(t.Context(), disk(d, "sda"), target, recovery.Options{Progress: func(p recovery.Progress) { last = p }})
		if err != nil {
			t.Fatal(err)
		}
		mustHold(t, target, d)
		if last.Done != last.Total || last.Done == 0 || last.DisksDone != 1 || last.ETA != 0 || last.Written > last.Done {
			t.Errorf("the last progress is %+v", last)
		}
		var st unix.Stat_t
		if err := unix.Stat(target.Path, &st); err != nil || st.Blocks*512 > res.Written+mib {
			t.Errorf("%d bytes written take %d on disk", res.Written, st.Blocks*512)
		}
		reads := d.Reads.Load()
		if res, err = recovery.Materialise(t.Context(), disk(d, "sda"), target, recovery.Options{}); err != nil || !res.Already || d.Reads.Load() != reads {
			t.Errorf("the second time: %+v, %v, %d reads", res, err, d.Reads.Load()-reads)
		}
	}
}

func TestMaterialisedVHDAsQemuSeesIt(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed")
	}
	dir := t.TempDir()
	d := history(2, 21*mib-512)[0]
	target := recovery.Target{Path: filepath.Join(dir, "disk.vhd"), Format: recovery.FixedVHD}
	if _, err := recovery.Materialise(t.Context(), disk(d, "sda"), target, recovery.Options{}); err != nil {
		t.Fatal(err)
	}
	raw := filepath.Join(dir, "plain")
	padded := append(bytes.Clone(d.Data), make([]byte, 512)...)
	if err := os.WriteFile(raw, padded, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"compare", "-f", "raw", "-F", "vpc", raw, target.Path},
		{"info", "-f", "vpc", target.Path},
	} {
		if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			t.Fatalf("qemu-img %v: %v\n%s", args, err, out)
		} else if args[0] == "info" && !bytes.Contains(out, []byte("21 MiB (22020096 bytes)")) {
			t.Fatalf("qemu-img sees another size:\n%s", out)
		}
	}
}

func TestAdvanceToNewerOlderLargerAndSmaller(t *testing.T) {
	points := history(3, 9*mib, 9*mib, 13*mib, 5*mib, 9*mib)
	for _, format := range []recovery.Format{recovery.Raw, recovery.FixedVHD} {
		target := recovery.Target{Path: filepath.Join(t.TempDir(), "disk"), Format: format}
		if _, err := recovery.Advance(t.Context(), disk(points[0], "sda"), target, recovery.Options{}); !errors.Is(err, recovery.ErrNoTarget) {
			t.Fatalf("advancing nothing: %v", err)
		}
		if _, err := recovery.Materialise(t.Context(), disk(points[0], "sda"), target, recovery.Options{}); err != nil {
			t.Fatal(err)
		}
		if _, err := recovery.Materialise(t.Context(), disk(points[1], "sda"), target, recovery.Options{}); !errors.Is(err, recovery.ErrOtherPoint) {
			t.Fatalf("materialising over another point: %v", err)
		}
		for _, i := range []int{1, 2, 3, 4, 0, 2, 1} {
			res, err := recovery.Advance(t.Context(), disk(points[i], "sda"), target, recovery.Options{})
			if err != nil || !res.Patched {
				t.Fatalf("to point %d: %+v, %v", i, res, err)
			}
			mustHold(t, target, points[i])
		}
	}
}

func TestAdvanceWritesOnlyWhatChanged(t *testing.T) {
	a := history(4, 32*mib)[0]
	b := &recoverytest.Disk{Data: bytes.Clone(a.Data), Position: block.Position{Epoch: 2, Seq: 99}, Others: []*recoverytest.Disk{a}}
	copy(b.Data[7*mib+4096:], bytes.Repeat([]byte("new!"), 2048))
	target := recovery.Target{Path: filepath.Join(t.TempDir(), "disk"), Format: recovery.Raw}
	if _, err := recovery.Materialise(t.Context(), disk(a, "sda"), target, recovery.Options{}); err != nil {
		t.Fatal(err)
	}
	res, err := recovery.Advance(t.Context(), disk(b, "sda"), target, recovery.Options{})
	if err != nil || res.Data != 8192 {
		t.Fatalf("%+v, %v: want 8192 bytes looked at", res, err)
	}
	mustHold(t, target, b)

	b.Others = nil // an image that does not know its changes: everything is written anew
	a.Others = nil
	if res, err = recovery.Advance(t.Context(), disk(a, "sda"), target, recovery.Options{}); err != nil || res.Patched {
		t.Fatalf("%+v, %v", res, err)
	}
	mustHold(t, target, a)
}

func TestForeignFilesAreRefusedUntouched(t *testing.T) {
	d := history(5, 2*mib)[0]
	for name, file := range map[string]string{"final": "disk", "partial": "disk.understudy-partial"} {
		path := filepath.Join(t.TempDir(), "disk")
		foreign := filepath.Join(filepath.Dir(path), file)
		if err := os.WriteFile(foreign, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		target := recovery.Target{Path: path, Format: recovery.Raw}
		if _, err := recovery.Materialise(t.Context(), disk(d, "sda"), target, recovery.Options{DiscardChanges: true}); !errors.Is(err, recovery.ErrForeign) {
			t.Errorf("%s: %v", name, err)
		}
		if err := recovery.Remove(path); !errors.Is(err, recovery.ErrNoTarget) {
			t.Errorf("%s: removed: %v", name, err)
		}
		if b, err := os.ReadFile(foreign); err != nil || string(b) != "precious" {
			t.Errorf("%s: the foreign file is now %q, %v", name, b, err)
		}
		if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
			t.Errorf("%s: something was left: %v", name, entries)
		}
	}
}

func TestOwnTargetsThatMustNotBeTouched(t *testing.T) {
	points := history(6, 2*mib, 2*mib)
	target := recovery.Target{Path: filepath.Join(t.TempDir(), "disk"), Format: recovery.Raw}
	make := func(d recovery.Disk, opts recovery.Options) error {
		_, err := recovery.Materialise(t.Context(), d, target, opts)
		return err
	}
	if err := make(disk(points[0], "sda"), recovery.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := make(disk(points[0], "sdb"), recovery.Options{}); !errors.Is(err, recovery.ErrOtherDisk) {
		t.Errorf("another disk's target: %v", err)
	}

	// Somebody booted from it.
	f, err := os.OpenFile(target.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("work"), 1000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := make(disk(points[0], "sda"), recovery.Options{}); !errors.Is(err, recovery.ErrAltered) {
		t.Errorf("an altered target: %v", err)
	}
	if _, err := recovery.Advance(t.Context(), disk(points[1], "sda"), target, recovery.Options{}); !errors.Is(err, recovery.ErrAltered) {
		t.Errorf("advancing an altered target: %v", err)
	}
	if err := make(disk(points[1], "sda"), recovery.Options{DiscardChanges: true}); err != nil {
		t.Errorf("discarding changes: %v", err)
	}
	mustHold(t, target, points[1])

	// Somebody put his own file in its place.
	if err := os.Rename(target.Path, target.Path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(target.Path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := make(disk(points[1], "sda"), recovery.Options{DiscardChanges: true}); !errors.Is(err, recovery.ErrForeign) {
		t.Errorf("a replaced target: %v", err)
	}
	if err := recovery.Remove(target.Path); !errors.Is(err, recovery.ErrForeign) {
		t.Errorf("removing a replaced target: %v", err)
	}
	if b, err := os.ReadFile(target.Path); err != nil || string(b) != "precious" {
		t.Errorf("the foreign file is now %q, %v", b, err)
	}
}

func TestNotEnoughSpaceIsSaidBeforehand(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("mounting a small tmpfs: %v", err)
	}
	defer unix.Unmount(dir, 0)
	d := &recoverytest.Disk{Data: bytes.Repeat([]byte("x"), 8*mib), Position: block.Position{Epoch: 1, Seq: 1}}
	_, err := recovery.Materialise(t.Context(), disk(d, "sda"), recovery.Target{Path: filepath.Join(dir, "disk"), Format: recovery.Raw}, recovery.Options{})
	var te *recovery.TargetError
	if !errors.Is(err, recovery.ErrSpace) || !errors.As(err, &te) || te.Remedy == "" {
		t.Fatalf("%v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 || d.Reads.Load() != 0 {
		t.Fatalf("something was touched: %v, %d reads", entries, d.Reads.Load())
	}
}

func TestReadErrorNamesDiskAndPlace(t *testing.T) {
	d := history(9, 8*mib)[0]
	for i := range d.Data {
		d.Data[i] = 1
	}
	d.FailAt = 5*mib + 100
	target := recovery.Target{Path: filepath.Join(t.TempDir(), "disk"), Format: recovery.Raw}
	_, err := recovery.Materialise(t.Context(), disk(d, "sda"), target, recovery.Options{})
	var te *recovery.TargetError
	if !errors.Is(err, recoverytest.ErrBroken) || !errors.As(err, &te) || te.Disk != "sda" {
		t.Fatalf("%v", err)
	}
	d.FailAt = 0
	if _, err := recovery.Materialise(t.Context(), disk(d, "sda"), target, recovery.Options{}); err != nil {
		t.Fatal(err)
	}
	mustHold(t, target, d)
}

func TestTwoAtOnceOneIsBusy(t *testing.T) {
	d := history(10, 8*mib)[0]
	target := recovery.Target{Path: filepath.Join(t.TempDir(), "disk"), Format: recovery.Raw}
	var second error
	var once atomic.Bool
	d.OnRead = func(int64) {
		if once.CompareAndSwap(false, true) {
			_, second = recovery.Materialise(t.Context(), disk(d, "sda"), target, recovery.Options{})
			if err := recovery.Remove(target.Path); !errors.Is(err, recovery.ErrBusy) {
				t.Errorf("removing a busy target: %v", err)
			}
		}
	}
	if _, err := recovery.Materialise(t.Context(), disk(d, "sda"), target, recovery.Options{}); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(second, recovery.ErrBusy) {
		t.Fatalf("the second: %v", second)
	}
	mustHold(t, target, d)
}
