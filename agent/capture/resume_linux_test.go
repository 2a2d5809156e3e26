package capture

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// A capturing process of its own is this test binary with these set.
const (
	envInstance = "UNDERSTUDY_TEST_INSTANCE"
	envStore    = "UNDERSTUDY_TEST_STORE"
)

func TestMain(m *testing.M) {
	if instance := os.Getenv(envInstance); instance != "" {
		if err := captureInto(instance, os.Getenv(envStore)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// stored is a record as the capturing process writes it down; data follows. End
// repeats Pos behind the data: a record that was torn by a kill has none.
type stored struct {
	Pos  uint64
	Disk block.DiskID
	Op   frame.Op
	_    [7]byte
	Off  int64
	Len  int64
	Data int64
}

// captureInto resumes the instance and appends what it polls to the file at path,
// until it is killed.
func captureInto(instance, path string) error {
	s, r, err := Open(Options{Instance: instance})
	if err != nil {
		return err
	}
	if !r.Intact {
		return fmt.Errorf("not resumed: %s", r.Detail)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	end, pos, err := readStore(f, func(stored, []byte) {})
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(end), seek(f, end)); err != nil {
		return err
	}
	if pos > s.Position() { // killed between store and Advance
		if err := s.Advance(pos); err != nil {
			return err
		}
	}
	return storeForever(s, f)
}

func seek(f *os.File, to int64) error {
	_, err := f.Seek(to, io.SeekStart)
	return err
}

func storeForever(s Source, f *os.File) error {
	w := bufio.NewWriterSize(f, 1<<20)
	for {
		var pos uint64
		n, lost, err := s.Poll(func(r Record) bool {
			rec := stored{Pos: r.Pos, Disk: r.Disk, Op: r.Op, Off: r.Off, Len: r.Len, Data: int64(len(r.Data))}
			_ = binary.Write(w, binary.NativeEndian, rec)
			_, _ = w.Write(r.Data)
			_ = binary.Write(w, binary.NativeEndian, r.Pos)
			pos = r.Pos
			return true
		})
		if err != nil || lost {
			h, _ := s.Health()
			return fmt.Errorf("lost %v: %v, health %+v", lost, err, h)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if n > 0 {
			if err := s.Advance(pos); err != nil {
				return err
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// readStore reads whole records; end is where the last of them ends.
func readStore(f io.ReadSeeker, fn func(stored, []byte)) (end int64, pos uint64, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, 0, err
	}
	r := bufio.NewReaderSize(f, 1<<20)
	for {
		var rec stored
		if binary.Read(r, binary.NativeEndian, &rec) != nil {
			return end, pos, nil
		}
		data := make([]byte, rec.Data)
		var again uint64
		if _, err := io.ReadFull(r, data); err != nil || binary.Read(r, binary.NativeEndian, &again) != nil || again != rec.Pos {
			return end, pos, nil
		}
		fn(rec, data)
		end, pos = end+int64(binary.Size(rec))+rec.Data+8, rec.Pos
	}
}

// TestKillLosesNothing kills the capturing process again and again under load.
func TestKillLosesNothing(t *testing.T) {
	dir := memory(t)
	disks := []Disk{newLoop(t, dir, 64<<20), newLoop(t, dir, 64<<20)}
	s := tracking(t, 256<<20, disks...)
	must(t, s.Close())
	instance := filepath.Base(s.dir)
	store := filepath.Join(dir, "store")
	must(t, os.WriteFile(store, nil, 0o600))
	t.Cleanup(func() { removeInstance(t, instance) })

	var load sync.WaitGroup
	base := written(t, disks)
	stop := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop); load.Wait() })
	t.Cleanup(end)
	for i, d := range disks {
		load.Go(func() {
			for seed := uint64(i); ; seed += 100 {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
					// The ring is to outlast a restart, however slow the machine.
					if written(t, disks)-base-storeSize(t, store) < 96<<20 {
						scribble(t, d, 1, 8, seed)
					}
				}
			}
		})
	}
	kills := 12
	for i := range kills {
		runAndKill(t, instance, store, time.Duration(17*i)*time.Millisecond)
	}
	end()

	again, r, err := Open(Options{Instance: instance})
	must(t, err)
	defer func() { _ = again.Close() }()
	if !r.Intact {
		t.Fatal("not resumed: " + r.Detail)
	}
	if !slices.EqualFunc(again.Disks(), disks, func(a, b Disk) bool { return slices.Contains(disks, a) }) {
		t.Fatalf("resumed with %v", again.Disks())
	}
	must(t, again.Barrier(context.Background()))
	finishStore(t, again, store, disks)
}

func runAndKill(t *testing.T, instance, store string, after time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envInstance+"="+instance, envStore+"="+store)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	before := storeSize(t, store)
	for deadline := time.Now().Add(time.Minute); storeSize(t, store) == before && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(after)
	must(t, cmd.Process.Signal(unix.SIGKILL))
	if err := cmd.Wait(); cmd.ProcessState.Exited() {
		t.Fatalf("the capturing process ended by itself: %v", err)
	}
}

// written is the number of bytes that the disks have taken since they appeared.
func written(t *testing.T, disks []Disk) (sum int64) {
	for _, d := range disks {
		stat, err := sysString(filepath.Base(d.Path), "stat")
		must(t, err)
		var sectors int64
		_, err = fmt.Sscan(strings.Fields(stat)[6], &sectors)
		must(t, err)
		sum += sectors * block.SectorSize
	}
	return sum
}

func storeSize(t *testing.T, store string) int64 {
	t.Helper()
	fi, err := os.Stat(store)
	must(t, err)
	return fi.Size()
}

// finishStore replays the store and what is left in the ring.
func finishStore(t *testing.T, s Source, store string, disks []Disk) {
	t.Helper()
	f, err := os.Open(store)
	must(t, err)
	defer func() { _ = f.Close() }()
	replica := newReplica(disks...)
	_, pos, err := readStore(f, func(rec stored, data []byte) {
		replica.apply(Record{Disk: rec.Disk, Op: rec.Op, Extent: block.Extent{Off: rec.Off, Len: rec.Len}, Data: data, Pos: rec.Pos})
	})
	must(t, err)
	inStore := replica.records
	if pos > s.Position() {
		must(t, s.Advance(pos))
	}
	if replica.drain(t, s) {
		h, err := s.Health()
		t.Fatalf("lost a write: %+v, %v", h, err)
	}
	for _, d := range disks {
		replica.equal(t, d)
	}
	t.Logf("%d records in the store, %d more in the ring", inStore, replica.records-inStore)
}

func removeInstance(t *testing.T, instance string) {
	s, _, err := Open(Options{Instance: instance})
	if err == nil {
		err = s.Remove()
	}
	if err != nil {
		t.Error(err)
	}
}

// TestSecondAgentIsRefused, and takes over when the first has ended.
func TestSecondAgentIsRefused(t *testing.T) {
	s := openSource(t, 1<<20)
	o := Options{Instance: filepath.Base(s.dir)}
	if _, _, err := Open(o); !errors.Is(err, ErrBusy) {
		t.Fatalf("a second Open says %v", err)
	}
	must(t, s.Close())
	if _, err := s.Health(); !errors.Is(err, ErrClosed) {
		t.Fatalf("Health after Close says %v", err)
	}
	again, r, err := Open(o)
	must(t, err)
	if !r.Intact {
		t.Fatalf("not resumed: %s", r.Detail)
	}
	must(t, again.Remove())
	third, r, err := Open(o)
	must(t, err)
	if r.Intact || r.Detail != "" {
		t.Fatalf("resumed what was removed: %+v", r)
	}
	must(t, third.Remove())
}

// TestAnotherLayoutBeginsAnew: pins of another version are told apart, and why.
func TestAnotherLayoutBeginsAnew(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(s *source)
	}{
		{"layout", func(s *source) { s.state.Layout++ }},
		{"link", func(s *source) { must(t, os.Remove(filepath.Join(s.dir, "live/links/submit"))) }},
		{"second link", func(s *source) { must(t, os.Remove(filepath.Join(s.dir, "live/links/failure"))) }},
		{"build", func(s *source) { must(t, os.Remove(filepath.Join(s.dir, "live/maps/build"))) }},
		{"map", func(s *source) { must(t, os.Remove(filepath.Join(s.dir, "live/maps/dirty"))) }},
		{"size", func(s *source) {
			path := filepath.Join(s.dir, "live/maps/devices")
			must(t, os.Remove(path))
			m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 1})
			must(t, err)
			must(t, m.Pin(path))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openSource(t, 1<<20)
			c.damage(s)
			must(t, s.Close())
			again, r, err := Open(Options{Instance: filepath.Base(s.dir)})
			must(t, err)
			if r.Intact || r.Detail == "" {
				t.Fatalf("resumed damaged pins: %+v", r)
			}
			t.Log(r.Detail)
			must(t, again.Remove())
		})
	}
}

// TestHalfMadePinsAreCleared: a process killed while it was pinning leaves no trace.
func TestHalfMadePinsAreCleared(t *testing.T) {
	s := openSource(t, 1<<20)
	must(t, os.Rename(filepath.Join(s.dir, "live"), filepath.Join(s.dir, "new")))
	must(t, s.Close())
	again, r, err := Open(Options{Instance: filepath.Base(s.dir), RingBytes: 1 << 20})
	must(t, err)
	defer func() { must(t, again.Remove()) }()
	if r.Intact {
		t.Fatal("resumed half-made pins")
	}
	if _, err := os.Stat(filepath.Join(s.dir, "new")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("half-made pins: %v", err)
	}
}

// TestSlotIsNotReusedTooEarly: a record of an untracked disk is never taken for
// another disk's.
func TestSlotIsNotReusedTooEarly(t *testing.T) {
	ctx := context.Background()
	dir := memory(t)
	a, b := newLoop(t, dir, 16<<20), newLoop(t, dir, 16<<20)
	s := tracking(t, 1<<20, a)
	writeAt(t, a, 0, 4096)
	must(t, s.Untrack(a.ID))
	if err := s.Untrack(a.ID); !errors.Is(err, ErrNotTracked) {
		t.Fatalf("untracked twice: %v", err)
	}
	must(t, s.Track(ctx, b))
	if err := s.Track(ctx, b); !errors.Is(err, ErrTracked) {
		t.Fatalf("tracked twice: %v", err)
	}
	writeAt(t, b, 8192, 4096)
	r := newReplica(a, b)
	r.drain(t, s)
	if r.records != 1 {
		t.Fatalf("%d records, want the one of the disk still tracked", r.records)
	}
	must(t, s.Untrack(b.ID))
	must(t, s.Track(ctx, a)) // its old slot is free by now
	if got := s.tracked[a.ID].slot; got != 0 {
		t.Fatalf("slot %d, want the first again", got)
	}
	dirtyIs(t, s, a)
}

// TestHalfUntrackedSlotIsRetired: killed between the two halves of Untrack, the slot
// is not reused before its records are consumed.
func TestHalfUntrackedSlotIsRetired(t *testing.T) {
	a := newLoop(t, memory(t), 16<<20)
	s := tracking(t, 1<<20, a)
	writeAt(t, a, 0, 4096)
	must(t, s.maps["devices"].Delete(s.tracked[a.ID].dev()))
	must(t, s.Close())
	again, r, err := Open(Options{Instance: filepath.Base(s.dir)})
	must(t, err)
	defer func() { must(t, again.Remove()) }()
	if !r.Intact || len(again.Disks()) != 0 {
		t.Fatalf("resumed %+v with %v", r, again.Disks())
	}
	must(t, again.Track(t.Context(), a))
	if got := again.(*source).tracked[a.ID].slot; got != 1 {
		t.Fatalf("slot %d, want the second: the first is in the ring", got)
	}
}
