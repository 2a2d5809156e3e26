package journal

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

var (
	machine = block.MachineID{1}
	disk    = block.DiskID{2}
	base    = time.Unix(1_700_000_000, 0)
)

// testFrame is a log frame of one record of n bytes, rounded up to sectors, that tells
// its number.
func testFrame(t testing.TB, seq block.Seq, n int) []byte {
	t.Helper()
	n = (n + block.SectorSize - 1) &^ (block.SectorSize - 1)
	b := frame.NewBuilder(machine)
	at := base.Add(time.Duration(seq) * time.Second)
	b.Reset(frame.KindLog, 1, seq, at)
	data := bytes.Repeat([]byte{byte(seq)}, n)
	if err := b.Add(disk, frame.OpWrite, block.Extent{Off: int64(seq) * 512, Len: int64(n)}, data); err != nil {
		t.Fatal(err)
	}
	raw, err := b.Append(nil, seq, at, frame.CompressNever)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// testOptions is a small journal in a fresh directory.
func testOptions(t testing.TB, memory, spill int64) Options {
	t.Helper()
	dir := t.TempDir()
	return Options{
		MemoryDir: filepath.Join(dir, "memory"), MemoryBytes: memory, MemoryOnDisk: true,
		SpillPath: filepath.Join(dir, "spill.hrl"), SpillBytes: spill,
		Log: slog.New(slog.DiscardHandler),
	}
}

func mustOpen(t testing.TB, o Options) (*Journal, Recovered) {
	t.Helper()
	j, rec, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return j, rec
}

func mustAppend(t testing.TB, j *Journal, seq block.Seq, n int) {
	t.Helper()
	if err := j.Append(testFrame(t, seq, n), uint64(seq)*100); err != nil {
		t.Fatalf("append %d: %v", seq, err)
	}
}

// fill appends until the journal is full and returns the last number stored.
func fill(t testing.TB, j *Journal, seq block.Seq, n int) block.Seq {
	t.Helper()
	for ; ; seq++ {
		switch err := j.Append(testFrame(t, seq, n), uint64(seq)*100); {
		case errors.Is(err, ErrFull):
			return seq - 1
		case err != nil:
			t.Fatal(err)
		}
	}
}

func mustNext(t testing.TB, j *Journal, seq block.Seq) {
	t.Helper()
	raw, err := j.Next(context.Background(), seq-1)
	if err != nil {
		t.Fatalf("next after %d: %v", seq-1, err)
	}
	checkFrame(t, raw, seq)
}

func checkFrame(t testing.TB, raw []byte, seq block.Seq) {
	t.Helper()
	f, err := frame.Parse(raw)
	if err != nil {
		t.Fatalf("frame %d: %v", seq, err)
	}
	if f.First != seq || f.At(0).Off != int64(seq)*block.SectorSize {
		t.Fatalf("frame %d wanted, %d found", seq, f.First)
	}
}

func TestFullSpillsThenRefusesThenWorksAgain(t *testing.T) {
	j, _ := mustOpen(t, testOptions(t, 64<<10, 128<<10))
	defer j.Close()
	last := fill(t, j, 1, 4096)
	s := j.Stats()
	if s.SpillBytes == 0 || s.MemoryBytes == 0 || s.Refused != 1 || int(last) != s.Frames {
		t.Fatalf("full with %+v", s)
	}
	next := block.Seq(1)
	for range 20 { // release a third, read on, fill again
		for range s.Frames / 3 {
			mustNext(t, j, next)
			next++
		}
		j.Release(next - 1)
		if again := fill(t, j, last+1, 4096); again == last {
			t.Fatalf("%d frames released, but none fits: %+v", s.Frames/3, j.Stats())
		} else {
			last = again
		}
	}
	for ; next <= last; next++ {
		mustNext(t, j, next)
		j.Release(next)
	}
	if s := j.Stats(); s.Frames != 0 || s.MemoryBytes != 0 || s.SpillBytes != 0 {
		t.Errorf("all released, but %+v", s)
	}
}

func TestWithoutDiskStage(t *testing.T) {
	o := testOptions(t, 64<<10, 0)
	o.SpillPath = ""
	j, _ := mustOpen(t, o)
	last := fill(t, j, 1, 4096)
	if err := j.SaveDurable(State{Epoch: 1}); !errors.Is(err, ErrNoDiskStage) {
		t.Errorf("SaveDurable: %v", err)
	}
	j.Close()
	j, rec := mustOpen(t, o)
	defer j.Close()
	if rec.Last != last || rec.First != 1 || !rec.SameBoot || rec.RingPos != uint64(last)*100 || rec.State.Epoch != 1 {
		t.Fatalf("recovered %+v", rec)
	}
	if path, _, _, err := j.SpillExtents(); path != "" || err != nil {
		t.Errorf("extents of no disk stage: %q, %v", path, err)
	}
}

// TestHeldLeavesTheDiskStageAlone: the file system there may be frozen. What memory cannot
// hold is refused, what the relay has waits, and afterwards all is as if nothing had been.
func TestHeldLeavesTheDiskStageAlone(t *testing.T) {
	o := testOptions(t, 256<<10, 1<<20)
	j, _ := mustOpen(t, o)
	defer j.Close()
	next := block.Seq(1)
	for j.Stats().SpilledBytes == 0 {
		mustAppend(t, j, next, 8<<10)
		next++
	}
	content := func() []byte {
		t.Helper()
		b, err := os.ReadFile(o.SpillPath)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	before := content()
	j.Hold()
	if err := j.Append(testFrame(t, next, 8<<10), uint64(next)); !errors.Is(err, ErrFull) {
		t.Fatalf("held and full: %v", err)
	}
	j.Release(next - 1) // writes the stage's anchor, were it not held
	if got := j.Stats(); got.Frames == 0 {
		t.Error("released while held")
	}
	if !bytes.Equal(content(), before) {
		t.Error("the disk stage was written to while held")
	}
	j.Resume()
	if got := j.Stats(); got.Frames != 0 {
		t.Errorf("%d frames are left of what was released while held", got.Frames)
	}
	mustAppend(t, j, next, 8<<10)
	mustNext(t, j, next)
}
