package journal

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/hrl"
)

// TestSavedPastTheFileSystem: with its file system read-only the journal's last word goes
// to the file's place on the disk, and nowhere else. Whoever mounts it finds it in the file.
func TestSavedPastTheFileSystem(t *testing.T) {
	for _, mkfs := range [][]string{{"mkfs.ext4", "-q"}, {"mkfs.ext4", "-q", "-b", "1024"}, {"mkfs.xfs", "-q"}} {
		t.Run(filepath.Base(mkfs[0]), func(t *testing.T) {
			dir, disk := mounted(t, mkfs[0], mkfs[1:]...)
			o := testOptions(t, 64<<10, 4<<20)
			o.boot = bootID{1}
			o.SpillPath = filepath.Join(dir, "spill.hrl")
			j, _ := mustOpen(t, o)
			_, _, own, err := j.SpillExtents()
			if err != nil {
				t.Fatal(err)
			}
			for seq := block.Seq(1); seq <= 12; seq++ {
				mustAppend(t, j, seq, 4096)
			}
			j.Close()
			run(t, "mount", "-o", "remount,ro", dir)
			before := digestWithout(t, disk, own)

			o.Files, err = OnDevice(o.SpillPath)
			if err != nil {
				t.Fatal(err)
			}
			j, rec := mustOpen(t, o)
			if !rec.SameBoot || rec.Last != 12 || rec.Moved {
				t.Fatalf("at shutdown: %+v", rec)
			}
			mustAppend(t, j, 13, 9000)
			if err := j.SaveDurable(State{Epoch: 4, LastSeq: 13, CleanStop: true}); err != nil {
				t.Fatal(err)
			}
			j.Close()
			if after := digestWithout(t, disk, own); after != before {
				t.Error("something was written beside the journal's own place")
			}

			run(t, "umount", dir)
			partition := disk + "p2"
			if _, err := os.Stat(partition); err != nil {
				partition = nodeOf(t, filepath.Base(partition))
			}
			run(t, "mount", partition, dir)
			o.Files = nil
			j, rec = mustOpen(t, reboot(t, o))
			defer j.Close()
			wantRetained(t, j, rec, 1, 13)
			if rec.SameBoot || !rec.Clean || rec.Moved || rec.State.Epoch != 4 || len(rec.Damage) > 0 {
				t.Errorf("after the boot: %+v", rec)
			}
		})
	}
}

// TestReadOnlyIsNotMadeAnew: a file that would have to be made again stays as it is.
func TestReadOnlyIsNotMadeAnew(t *testing.T) {
	dir, _ := mounted(t, "mkfs.ext4", "-q")
	o := testOptions(t, 64<<10, 1<<20)
	o.SpillPath = filepath.Join(dir, "spill.hrl")
	j, _ := mustOpen(t, o)
	j.Close()
	run(t, "mount", "-o", "remount,ro", dir)
	var err error
	if o.Files, err = OnDevice(o.SpillPath); err != nil {
		t.Fatal(err)
	}
	o.SpillBytes = 2 << 20 // an operator changed it
	if j, _, err := Open(o); err == nil {
		j.Close()
		t.Error("a file was made on a read-only file system")
	}
}

// digestWithout is of all of a disk but these extents.
func digestWithout(t *testing.T, disk string, extents []block.Extent) [sha256.Size]byte {
	t.Helper()
	run(t, "blockdev", "--flushbufs", disk)
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range extents {
		clear(b[e.Off:e.End()])
	}
	return sha256.Sum256(b)
}

// torn keeps what is written to a file instead of writing it.
type torn struct {
	hrl.Files
	path   string
	writes *[]write
}

type write struct {
	off int64
	b   []byte // nil for a sync
}

func (f torn) Open(path string, kind hrl.Kind) (hrl.Store, error) {
	s, err := f.Files.Open(path, kind)
	if path != f.path || err != nil {
		return s, err
	}
	return tornStore{s, f.writes}, nil
}

type tornStore struct {
	hrl.Store
	writes *[]write
}

func (s tornStore) Write(b []byte, off int64) error {
	*s.writes = append(*s.writes, write{off: off, b: bytes.Clone(b)})
	return s.Store.Write(b, off)
}

func (s tornStore) Sync() error {
	*s.writes = append(*s.writes, write{})
	return s.Store.Sync()
}

// TestSealTornAtEverySector: the power goes while the last word is written. What was synced
// is there; of the rest all sectors up to one are, or any. A clean stop is found only where
// all that it speaks of is there, and never before its own state was written.
func TestSealTornAtEverySector(t *testing.T) {
	o := testOptions(t, 64<<10, 256<<10)
	o.boot = bootID{1}
	o.SpillPath = filepath.Join(inSharedMemory(t), "spill.hrl") // hundreds of syncs
	j, _ := mustOpen(t, o)
	for seq := block.Seq(1); seq <= 10; seq++ {
		mustAppend(t, j, seq, 3000)
	}
	j.Release(2)
	j.Close()
	synced, err := os.ReadFile(o.SpillPath)
	if err != nil {
		t.Fatal(err)
	}
	var writes []write
	o.Files = torn{&hrl.Device{}, o.SpillPath, &writes}
	j, _ = mustOpen(t, o)
	if err := j.SaveDurable(State{Epoch: 3, LastSeq: 10, CleanStop: true}); err != nil {
		t.Fatal(err)
	}
	state := stateWrite(t, writes)
	last := len(writes)
	j.Close()
	o.Files = nil

	sectors, clean := 0, 0
	rng := rand.New(rand.NewPCG(1, 2))
	image, since := bytes.Clone(synced), 0
	for i, w := range writes[:last] {
		if w.b == nil {
			copy(synced, image)
			since = i + 1
		}
		for n := 0; n < len(w.b); n += block.SectorSize {
			sectors++
			inOrder := bytes.Clone(image)
			copy(inOrder[w.off:], w.b[:n])
			for _, left := range [][]byte{inOrder, anySectors(rng, synced, writes[since:i+1])} {
				if !foundClean(t, o, left) {
					continue
				}
				if clean++; i < state {
					t.Fatalf("a clean stop in write %d, torn after %d bytes: its state is write %d", i, n, state)
				}
			}
		}
		copy(image[w.off:], w.b)
	}
	if !foundClean(t, o, image) {
		t.Error("all is written, and there is no clean stop")
	}
	t.Logf("%d writes, torn at %d sectors, whole at %d of them", last, sectors, clean)
}

// stateWrite is which write holds the clean stop's state: the first after the frames were
// synced, which opening had been before.
func stateWrite(t *testing.T, writes []write) int {
	syncs := 0
	for i, w := range writes {
		if w.b != nil {
			continue
		}
		if syncs++; syncs == 2 {
			return i + 1
		}
	}
	t.Fatalf("%d syncs: the frames were not synced before the state", syncs)
	return 0
}

func inSharedMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "journal-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// anySectors is what was synced and any sectors of the writes since.
func anySectors(rng *rand.Rand, synced []byte, writes []write) []byte {
	left := bytes.Clone(synced)
	for _, w := range writes {
		for n := 0; n < len(w.b); n += block.SectorSize {
			if rng.IntN(4) > 0 {
				copy(left[w.off+int64(n):], w.b[n:min(n+block.SectorSize, len(w.b))])
			}
		}
	}
	return left
}

// foundClean opens what is left on the disk in the next boot. A clean stop must come with
// all that it speaks of.
func foundClean(t *testing.T, o Options, left []byte) bool {
	t.Helper()
	f, err := os.OpenFile(o.SpillPath, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, bytes.NewReader(left)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	j, rec, err := Open(reboot(t, o))
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if !rec.Clean {
		return false
	}
	wantRetained(t, j, rec, 3, 10)
	return true
}
