package journal

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/hrl"
)

// reboot is what a reboot leaves of a journal: the disk stage.
func reboot(t testing.TB, o Options) Options {
	t.Helper()
	if err := os.RemoveAll(o.MemoryDir); err != nil {
		t.Fatal(err)
	}
	o.boot = bootID{o.boot[0] + 1}
	return o
}

// kill is what kill -9 leaves of an open journal: its files as they are.
func kill(t testing.TB, o Options) Options {
	t.Helper()
	after := testOptions(t, o.MemoryBytes, o.SpillBytes)
	after.boot = o.boot
	if err := os.CopyFS(after.MemoryDir, os.DirFS(o.MemoryDir)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(o.SpillPath)
	if err == nil {
		err = os.WriteFile(after.SpillPath, b, 0o600)
	}
	if err != nil && o.SpillBytes > 0 {
		t.Fatal(err)
	}
	return after
}

func wantRetained(t testing.TB, j *Journal, rec Recovered, first, last block.Seq) {
	t.Helper()
	if rec.First != first || rec.Last != last {
		t.Fatalf("retained %d..%d, want %d..%d: %+v", rec.First, rec.Last, first, last, rec)
	}
	for seq := first; first > 0 && seq <= last; seq++ {
		mustNext(t, j, seq)
	}
}

func TestKillKeepsEverything(t *testing.T) {
	o := testOptions(t, 64<<10, 128<<10)
	j, _ := mustOpen(t, o)
	defer j.Close()
	last := fill(t, j, 1, 4096)
	j.Release(4) // makes room in memory for one that is newer than what lies on the disk
	mustAppend(t, j, last+1, 4096)
	if err := j.SaveState(State{Epoch: 7}); err != nil {
		t.Fatal(err)
	}
	k, rec := mustOpen(t, kill(t, o))
	defer k.Close()
	wantRetained(t, k, rec, 5, last+1)
	if !rec.SameBoot || rec.Clean || rec.Released != 4 || rec.RingPos != uint64(last+1)*100 || rec.State.Epoch != 7 || len(rec.Damage) > 0 {
		t.Errorf("recovered %+v", rec)
	}
	mustAppend(t, k, last+2, 100)
}

func TestEverythingReleasedIsRemembered(t *testing.T) {
	o := testOptions(t, 64<<10, 0)
	j, _ := mustOpen(t, o)
	defer j.Close()
	mustAppend(t, j, 41, 100)
	mustAppend(t, j, 42, 100)
	j.Release(42)
	k, rec := mustOpen(t, kill(t, o))
	defer k.Close()
	if rec.Released != 42 || rec.RingPos != 4200 || rec.Frames != 0 {
		t.Fatalf("recovered %+v", rec)
	}
	if at, known := k.Closing(42); !known || !at.Equal(base.Add(42*time.Second)) {
		t.Errorf("remembered of frame 42's closing time: %v, %v", at, known)
	}
	if at, known := k.Closing(41); known {
		t.Errorf("frame 41 is remembered: %v", at)
	}
	if err := k.Append(testFrame(t, 44, 1), 0); !errors.Is(err, ErrOrder) {
		t.Errorf("44 after 42: %v", err)
	}
	mustAppend(t, k, 43, 100)
}

func TestCleanStopSurvivesReboot(t *testing.T) {
	o := testOptions(t, 64<<10, 256<<10)
	o.boot = bootID{1}
	j, _ := mustOpen(t, o)
	last := fill(t, j, 1, 4096)
	j.Release(3)
	for seq := block.Seq(4); seq <= last-20; seq++ {
		mustNext(t, j, seq)
	}
	j.Release(last - 20) // leaves room on the disk, and frames of memory newer than its own
	mustAppend(t, j, last+1, 4096)
	dirty := map[block.DiskID][]block.Extent{disk: {{Off: 4096, Len: 512}}}
	if err := j.SaveDurable(State{Epoch: 3, CleanStop: true, Dirty: dirty}); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(testFrame(t, last+2, 1), 0); !errors.Is(err, ErrClosed) {
		t.Errorf("append after a clean stop: %v", err)
	}
	j.Close()

	o = reboot(t, o)
	j, rec := mustOpen(t, o)
	wantRetained(t, j, rec, last-19, last+1)
	if rec.SameBoot || !rec.Clean || !rec.State.CleanStop || rec.State.Epoch != 3 || rec.RingPos != 0 || rec.State.Dirty[disk][0] != dirty[disk][0] {
		t.Fatalf("recovered %+v", rec)
	}
	j.Close()

	// The same state is no clean stop's any more: the journal was open since.
	j, rec = mustOpen(t, reboot(t, o))
	defer j.Close()
	if rec.Clean || rec.State.CleanStop || rec.State.Epoch != 3 {
		t.Errorf("a stale clean stop was believed: %+v", rec)
	}
}

func TestCrashOfTheMachineKeepsTheNewestRun(t *testing.T) {
	o := testOptions(t, 64<<10, 256<<10)
	o.boot = bootID{1}
	j, _ := mustOpen(t, o)
	defer j.Close()
	last := fill(t, j, 1, 4096)
	inMemory := block.Seq(0)
	for _, it := range j.items {
		if it.ring == j.memory {
			inMemory = it.Last
		}
	}
	k, rec := mustOpen(t, reboot(t, kill(t, o)))
	defer k.Close()
	wantRetained(t, k, rec, inMemory+1, last)
	if rec.SameBoot || rec.Clean || rec.RingPos != 0 {
		t.Errorf("recovered %+v", rec)
	}
	k.Reset(500, time.Time{})
	if _, err := k.Next(context.Background(), last-1); !errors.Is(err, ErrGap) {
		t.Errorf("after a reset, next gives %v", err)
	}
	mustAppend(t, k, 501, 100)
	mustNext(t, k, 501)
}

// TestDamageOnDisk flips one bit of a frame on the disk, in the run that is retained:
// what precedes it stays, what follows is given up for good, and life goes on.
func TestDamageOnDisk(t *testing.T) {
	o := testOptions(t, 64<<10, 256<<10)
	j, _ := mustOpen(t, o)
	last := fill(t, j, 1, 4096)
	j.Release(4)
	mustAppend(t, j, last+1, 4096) // lies in memory, beyond the damage
	var victim item
	for _, it := range j.items {
		if it.ring == j.spill && it.First == last-5 {
			victim = it
		}
	}
	j.Close()
	im, err := hrl.OpenImage(o.SpillPath)
	if err != nil {
		t.Fatal(err)
	}
	off := im.FileBytes() - im.RingBytes + int64(victim.Pos)%im.RingBytes + 1000
	im.Close()
	flip(t, o.SpillPath, off)

	j, rec := mustOpen(t, o)
	wantRetained(t, j, rec, 5, last-6)
	if len(rec.Damage) == 0 || rec.RingPos != uint64(last-6)*100 {
		t.Errorf("recovered %+v", rec)
	}
	mustAppend(t, j, last-5, 100)
	j.Close()
	j, rec = mustOpen(t, o)
	defer j.Close()
	wantRetained(t, j, rec, 5, last-5)
	if len(rec.Damage) != 0 {
		t.Errorf("damage reported twice: %v", rec.Damage)
	}
}

// TestDamageWhileOpen is found by Next.
func TestDamageWhileOpen(t *testing.T) {
	o := testOptions(t, 64<<10, 256<<10)
	j, _ := mustOpen(t, o)
	defer j.Close()
	last := fill(t, j, 1, 4096)
	it := j.items[len(j.items)-1]
	flip(t, o.SpillPath, it.ring.FileBytes()-it.ring.RingBytes+int64(it.Pos)+100)
	if _, err := j.Next(context.Background(), last-1); !errors.Is(err, ErrDamaged) {
		t.Errorf("next gives %v", err)
	}
}

func flip(t testing.TB, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

func TestUnrecoverableStageIsMadeAnew(t *testing.T) {
	o := testOptions(t, 64<<10, 64<<10)
	j, _ := mustOpen(t, o)
	fill(t, j, 1, 4096)
	j.Close()
	flip(t, filepath.Join(o.MemoryDir, memoryFile), 20)
	if err := os.Truncate(o.SpillPath, 10000); err != nil {
		t.Fatal(err)
	}
	j, rec := mustOpen(t, o)
	defer j.Close()
	if len(rec.Damage) != 2 || rec.Frames != 0 || rec.Found {
		t.Fatalf("recovered %+v", rec)
	}
	fill(t, j, 1, 4096)
}

func TestForeignFileIsNotTouched(t *testing.T) {
	o := testOptions(t, 64<<10, 64<<10)
	precious := bytes.Repeat([]byte("precious"), 10000)
	if err := os.WriteFile(o.SpillPath, precious, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(o); !errors.Is(err, hrl.ErrNotHRL) || !strings.Contains(err.Error(), o.SpillPath) {
		t.Errorf("open: %v", err)
	}
	if b, _ := os.ReadFile(o.SpillPath); !bytes.Equal(b, precious) {
		t.Error("the file was changed")
	}
}

func TestSizeChangesOnceEmpty(t *testing.T) {
	o := testOptions(t, 64<<10, 64<<10)
	j, _ := mustOpen(t, o)
	last := fill(t, j, 1, 4096)
	j.SaveState(State{Epoch: 9})
	j.Close()
	o.MemoryBytes, o.SpillBytes = 128<<10, 32<<10
	j, rec := mustOpen(t, o)
	wantRetained(t, j, rec, 1, last)
	if s := j.Stats(); s.MemorySize != 64<<10 || s.SpillSize != 64<<10 {
		t.Errorf("resized over frames: %+v", s)
	}
	j.Release(last)
	j.Close()
	j, rec = mustOpen(t, o)
	defer j.Close()
	if s := j.Stats(); s.MemorySize != 128<<10 || s.SpillSize != 32<<10 || !rec.SameBoot || rec.State.Epoch != 9 || rec.Released != last || rec.RingPos != uint64(last)*100 {
		t.Errorf("resized to %+v, recovered %+v", s, rec)
	}
	mustAppend(t, j, last+1, 10)
}

// TestResetForgetsForGood begins anew at a lower number and is killed at once: nothing
// of what was there before comes back.
func TestResetForgetsForGood(t *testing.T) {
	o := testOptions(t, 64<<10, 128<<10)
	j, _ := mustOpen(t, o)
	defer j.Close()
	fill(t, j, 1, 4096)
	j.Reset(7, time.Time{})
	k, rec := mustOpen(t, kill(t, o))
	defer k.Close()
	if rec.Frames != 0 || rec.Released != 7 || len(rec.Damage) != 0 {
		t.Fatalf("recovered %+v", rec)
	}
	last := fill(t, j, 8, 4096)
	k, rec = mustOpen(t, kill(t, o))
	defer k.Close()
	wantRetained(t, k, rec, 8, last)
}
