package overlay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/controlplane/recovery"
	"github.com/understudy-dr/understudy/controlplane/recovery/recoverytest"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// diskSize is not a multiple of the block size.
const diskSize = 9*BlockSize + 1536

// baseDisk has noise in its odd blocks and zeros in the even ones.
func baseDisk(seed uint64) recovery.Disk {
	r := rand.New(rand.NewPCG(seed, 2))
	data := make([]byte, diskSize)
	for i := range data {
		if i/BlockSize%2 == 1 {
			data[i] = byte(r.Uint32())
		}
	}
	return recovery.Disk{
		Origin: recovery.Origin{Vault: "v", Machine: block.MachineID{1}, Disk: block.DiskID{2}, Name: "sda", Position: block.Position{Epoch: 1, Seq: 5}},
		Image:  &recoverytest.Disk{Data: data},
	}
}

func content(t interface{ Fatal(...any) }, img recovery.Image) []byte {
	got := make([]byte, img.Size())
	if err := recovery.ReadFull(img, got, 0); err != nil {
		t.Fatal(err)
	}
	return got
}

// TestAgainstModel does random writes, zeroings, reads and reopenings, and holds
// every one against a plain array.
func TestAgainstModel(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		d := baseDisk(uint64(n))
		model := content(t, d.Image)
		path := filepath.Join(dir, "overlay")
		_ = os.Remove(path)
		o, err := Open(path, d)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { o.Close() }()
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			off := rapid.Int64Range(0, diskSize-1).Draw(t, "off")
			if rapid.Bool().Draw(t, "aligned") {
				off -= off % BlockSize
			}
			length := min(rapid.Int64Range(1, 3*BlockSize).Draw(t, "len"), diskSize-off)
			switch rapid.IntRange(0, 5).Draw(t, "op") {
			case 0, 1:
				p := bytes.Repeat([]byte{byte(rapid.IntRange(1, 255).Draw(t, "fill"))}, int(length))
				if _, err := o.WriteAt(p, off); err != nil {
					t.Fatal(err)
				}
				copy(model[off:], p)
			case 2, 3:
				if err := o.Zero(off, length, rapid.Bool().Draw(t, "hole")); err != nil {
					t.Fatal(err)
				}
				clear(model[off : off+length])
			case 4:
				checkExtents(t, o, model, off, length)
			case 5:
				if err := o.Close(); err != nil {
					t.Fatal(err)
				}
				if o, err = Open(path, d); err != nil {
					t.Fatal(err)
				}
			}
			p := make([]byte, length)
			if _, err := o.ReadAt(p, off); err != nil && err != io.EOF || !bytes.Equal(p, model[off:off+length]) {
				t.Fatalf("[%d+%d) reads other than it was written, %v", off, length, err)
			}
		}
		if !bytes.Equal(content(t, o), model) {
			t.Fatal("the whole disk differs from the model")
		}
	})
}

func checkExtents(t *rapid.T, o *Overlay, model []byte, off, length int64) {
	at := off
	for e, err := range recovery.Map(t.Context(), o, off, length) {
		if err != nil || e.Off != at {
			t.Fatalf("%+v at %d, %v", e, at, err)
		}
		if at = e.End(); e.Zero && len(bytes.Trim(model[e.Off:at], "\x00")) > 0 {
			t.Fatalf("%+v is not zero", e)
		}
	}
	if at != off+length {
		t.Fatalf("extents of [%d+%d) end at %d", off, length, at)
	}
}

// TestConcurrentWritersKeepTheirSectors has many writers fill neighbouring sectors
// of the same fresh blocks, the case in which copying up could lose one.
func TestConcurrentWritersKeepTheirSectors(t *testing.T) {
	d := baseDisk(7)
	o, err := Temporary(t.TempDir(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	model := content(t, d.Image)
	const writers, sector = 8, 512
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			p := bytes.Repeat([]byte{byte(w + 1)}, sector)
			for s := w; (s+1)*sector <= diskSize; s += writers {
				if s%5 == 0 {
					continue // left to the base
				}
				if _, err := o.WriteAt(p, int64(s)*sector); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for s := range diskSize / sector {
		if s%5 != 0 {
			copy(model[s*sector:], bytes.Repeat([]byte{byte(s%writers + 1)}, sector))
		}
	}
	if !bytes.Equal(content(t, o), model) {
		t.Fatal("a concurrent write was lost")
	}
}

// TestCrashKeepsWhatWasSynced reopens a copy of the file taken without a Close. Each
// sector must be as at the last Sync or as written later, never anything else.
func TestCrashKeepsWhatWasSynced(t *testing.T) {
	dir := t.TempDir()
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 3))
		d := baseDisk(seed)
		path := filepath.Join(dir, "overlay")
		o, err := Open(path, d)
		if err != nil {
			t.Fatal(err)
		}
		synced := content(t, d.Image)
		last := bytes.Clone(synced)
		for range 30 {
			off := r.Int64N(diskSize/512) * 512
			p := make([]byte, min(512*(1+r.Int64N(200)), diskSize-off))
			if r.IntN(3) > 0 {
				p = bytes.Repeat([]byte{byte(1 + r.IntN(255))}, len(p))
				_, err = o.WriteAt(p, off)
			} else {
				err = o.Zero(off, int64(len(p)), true)
			}
			if err != nil {
				t.Fatal(err)
			}
			copy(last[off:], p)
			if r.IntN(10) == 0 {
				if err := o.Sync(); err != nil {
					t.Fatal(err)
				}
				synced = bytes.Clone(last)
			}
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		crashed := path + ".crashed"
		if err := os.WriteFile(crashed, b, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := Open(crashed, d)
		if err != nil {
			t.Fatal(err)
		}
		got := content(t, again)
		older := bytes.Clone(synced)
		for s := 0; s < diskSize; s += 512 {
			if g := got[s : s+512]; !bytes.Equal(g, last[s:s+512]) && !bytes.Equal(g, older[s:s+512]) && bytes.Equal(last[s:s+512], older[s:s+512]) {
				t.Fatalf("seed %d: sector %d is neither as synced nor as written since", seed, s/512)
			}
		}
		for _, close := range []func() error{again.Close, o.Close} {
			if err := close(); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range []string{path, crashed} {
			if err := Remove(p); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestOpenRefusesWhatIsNotItsOwn(t *testing.T) {
	dir := t.TempDir()
	d := baseDisk(1)
	path := filepath.Join(dir, "overlay")
	o, err := Open(path, d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, d); !errors.Is(err, ErrBusy) {
		t.Errorf("a second opening: %v", err)
	}
	if err := Remove(path); !errors.Is(err, ErrBusy) {
		t.Errorf("removing it in use: %v", err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	later := d
	later.Position.Seq++
	if _, err := Open(path, later); !errors.Is(err, ErrOtherPoint) {
		t.Errorf("another point: %v", err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bytes []byte
		want  error
	}{
		"foreign":  {[]byte("precious"), ErrNotOverlay},
		"version":  {append(append(bytes.Clone(b[:8]), 2), b[9:]...), ErrVersion},
		"damaged":  {append(append(bytes.Clone(b[:40]), b[40]^1), b[41:]...), ErrDamaged},
		"cut":      {b[:len(b)-1], ErrDamaged},
		"unstated": {make([]byte, 4096), ErrNotOverlay},
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, c.bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(file, d); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if after, err := os.ReadFile(file); err != nil || !bytes.Equal(after, c.bytes) {
			t.Errorf("%s: the file was changed, %v", name, err)
		}
	}
	if err := Remove(filepath.Join(dir, "foreign")); !errors.Is(err, ErrNotOverlay) {
		t.Errorf("removing a foreign file: %v", err)
	}
	cut := filepath.Join(dir, "unfinished")
	if err := os.WriteFile(cut, b[:headerSize], 0o600); err != nil {
		t.Fatal(err)
	}
	if o, err = Open(cut, d); err != nil {
		t.Fatalf("an overlay interrupted while being made: %v", err)
	}
	o.Close()
}

func TestTemporaryLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	o, err := Temporary(dir, baseDisk(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.WriteAt([]byte("x"), 5); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Fatalf("it has a name: %v", entries)
	}
	if err := errors.Join(o.Sync(), o.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestFailedCopyUpLeavesTheBaseVisible breaks the base below a partial write.
func TestFailedCopyUpLeavesTheBaseVisible(t *testing.T) {
	d := baseDisk(3)
	o, err := Temporary(t.TempDir(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	img := d.Image.(*recoverytest.Disk)
	img.FailAt = BlockSize + 60000
	if _, err := o.WriteAt([]byte("lost"), BlockSize+100); !errors.Is(err, recoverytest.ErrBroken) {
		t.Fatalf("%v", err)
	}
	img.FailAt = 0
	if !bytes.Equal(content(t, o), img.Data) {
		t.Fatal("a failed write left something behind")
	}
	for _, bad := range []int64{-1, diskSize, diskSize - 1} {
		if _, err := o.WriteAt([]byte("xx"), bad); err == nil {
			t.Errorf("a write at %d was taken", bad)
		}
		if err := o.Zero(bad, 2, true); err == nil {
			t.Errorf("zeroing at %d was taken", bad)
		}
	}
}

// TestFullFileSystem writes until there is no room: what was written stays readable,
// what failed leaves the base visible, and zeroing makes room again.
func TestFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("mounting a small tmpfs: %v", err)
	}
	defer unix.Unmount(dir, 0)
	d := baseDisk(11)
	o, err := Open(filepath.Join(dir, "overlay"), d)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	model := content(t, d.Image)
	full := -1
	for b := range 9 {
		p := bytes.Repeat([]byte{byte(b + 1)}, 5000)
		off := b*BlockSize + 30000
		if _, err := o.WriteAt(p, int64(off)); err == nil {
			copy(model[off:], p)
		} else if full = b; !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	if full < 0 || !bytes.Equal(content(t, o), model) {
		t.Fatalf("the last to fail was block %d, or the content is wrong", full)
	}
	if err := o.Zero(0, 4*BlockSize, true); err != nil {
		t.Fatal(err)
	}
	clear(model[:4*BlockSize])
	p := bytes.Repeat([]byte{0xee}, 5000)
	if _, err := o.WriteAt(p, int64(full)*BlockSize+1); err != nil {
		t.Fatalf("there is room again: %v", err)
	}
	copy(model[full*BlockSize+1:], p)
	if !bytes.Equal(content(t, o), model) {
		t.Fatal("the content is wrong")
	}
}

// FuzzDecodeHeader takes any bytes for an overlay's header. Limit: 256 times what a
// header has.
func FuzzDecodeHeader(f *testing.F) {
	good, err := header{size: diskSize, origin: baseDisk(1).Origin}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, false)
	f.Add(good, true)
	f.Add([]byte("USDYOVL\x01"), false)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed && len(b) == headerSize {
			binary.LittleEndian.PutUint32(b[crcAt:], crc32.Checksum(b[:crcAt], castagnoli))
		}
		fuzztest.Bounded(t, 256*headerSize, func() { _, _ = decodeHeader(b) })
		if h, err := decodeHeader(b); err == nil && (h.size <= 0 || h.size > maxSize) {
			t.Fatalf("a size of %d was taken", h.size)
		}
	})
}
