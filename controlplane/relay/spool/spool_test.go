package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// plant makes frames of a machine and knows what the spool should hold of them.
type plant struct {
	t       testing.TB
	machine block.MachineID
	builder *frame.Builder
	raws    [][]byte
}

func newPlant(t testing.TB) *plant {
	m := block.NewMachineID()
	return &plant{t: t, machine: m, builder: frame.NewBuilder(m)}
}

func (p *plant) frame(size int) []byte {
	seq := block.Seq(len(p.raws) + 1)
	p.builder.Reset(frame.KindLog, 1, seq, time.Unix(int64(seq), 0))
	data := bytes.Repeat([]byte{byte(seq)}, size)
	if err := p.builder.Add(block.DiskIDFromName("d"), frame.OpWrite, block.Extent{Off: 0, Len: int64(size)}, data); err != nil {
		p.t.Fatal(err)
	}
	raw, err := p.builder.Append(nil, seq, time.Unix(int64(seq), 0), frame.CompressNever)
	if err != nil {
		p.t.Fatal(err)
	}
	p.raws = append(p.raws, raw)
	return raw
}

func open(t testing.TB, dir string, change func(*Options)) (*Spool, Recovered) {
	t.Helper()
	o := Options{Segment: MinSegment, Limit: 8 * MinSegment, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if change != nil {
		change(&o)
	}
	s, rec, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, rec
}

// put appends frames and waits until they are durable.
func put(t testing.TB, s *Spool, raws ...[]byte) []*Entry {
	t.Helper()
	var wg sync.WaitGroup
	var entries []*Entry
	for _, raw := range raws {
		h, err := frame.ParseHeader(raw)
		if err != nil {
			t.Fatal(err)
		}
		e := NewEntry(h, nil)
		entries = append(entries, e)
		if err := s.Reserve(t.Context(), len(raw)); err != nil {
			t.Fatal(err)
		}
		wg.Add(1)
		s.Append(raw, e, func(err error) {
			if err != nil {
				t.Error(err)
			}
			wg.Done()
		})
	}
	wg.Wait()
	return entries
}

// holds checks that the recovered spool has exactly these frames of the one machine.
func holds(t testing.TB, s *Spool, rec Recovered, want [][]byte) {
	t.Helper()
	var got []*Entry
	for _, m := range rec.Machines {
		got = append(got, m.Log...)
	}
	if len(got) != len(want) {
		t.Fatalf("%d frames recovered, want %d", len(got), len(want))
	}
	for i, e := range got {
		raw, err := s.Read(e, nil)
		if err != nil || !bytes.Equal(raw, want[i]) {
			t.Fatalf("frame %d came back wrong: %v", i+1, err)
		}
	}
}

func TestFramesSurviveARestartAndAreFreedForGood(t *testing.T) {
	dir, p := t.TempDir(), newPlant(t)
	s, _ := open(t, dir, func(o *Options) { o.Positions = nil })
	entries := put(t, s, p.frame(4096), p.frame(512), p.frame(200<<10), p.frame(1<<20), p.frame(512))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, rec := open(t, dir, nil)
	if rec.Torn || len(rec.Damaged) > 0 {
		t.Errorf("a clean spool is recovered with torn %v, damage %v", rec.Torn, rec.Damaged)
	}
	holds(t, s, rec, p.raws)
	if last := rec.Machines[0].Spooled; last.Seq != 5 || !last.Closed.Equal(time.Unix(5, 0)) {
		t.Errorf("spooled up to %v", last)
	}
	s.Free(rec.Machines[0].Log...)
	s.Free(rec.Machines[0].Log...) // twice does nothing
	if u := s.Usage(); u.Live != 0 {
		t.Errorf("%d bytes live after everything was freed", u.Live)
	}
	if _, err := s.Read(entries[0], nil); err == nil && s.Usage().Live != 0 {
		t.Error("a freed entry is read")
	}
}

// TestPositionsOutliveTheirFrames: when all of a machine's frames are freed and their
// segments gone, a restart still knows how far it had come.
func TestPositionsOutliveTheirFrames(t *testing.T) {
	dir, p, other := t.TempDir(), newPlant(t), newPlant(t)
	var mu sync.Mutex
	at := Positions{Machine: p.machine}
	positions := func() []Positions { mu.Lock(); defer mu.Unlock(); return []Positions{at} }
	s, _ := open(t, dir, func(o *Options) { o.Positions = positions })
	entries := put(t, s, p.frame(512), p.frame(512))
	mu.Lock()
	at.Spooled, at.Committed = entries[1].position(), entries[1].position()
	at.BaseSpooled = BasePosition{Epoch: 1, N: 9}
	mu.Unlock()
	s.Free(entries...)
	for range 5 {
		put(t, s, other.frame(12<<20)) // fills segments until the first is gone
	}
	if n := s.Usage().Segments; n < 2 {
		t.Fatalf("%d segments: the test does not get as far as it should", n)
	}
	_ = s.Close()
	_, rec := open(t, dir, nil)
	for _, m := range rec.Machines {
		if m.Machine == p.machine {
			if len(m.Log) != 0 || m.Spooled != at.Spooled || m.Committed != at.Committed || m.BaseSpooled != at.BaseSpooled {
				t.Errorf("recovered %+v, want %+v and no frames", m, at)
			}
			return
		}
	}
	t.Error("the machine is forgotten")
}

// TestLimitHoldsBackAndResumes fills the spool to its limit: the writer waits, says so
// once, and goes on when room is freed.
func TestLimitHoldsBackAndResumes(t *testing.T) {
	p := newPlant(t)
	trouble := make(chan error, 16)
	s, _ := open(t, t.TempDir(), func(o *Options) { o.Limit, o.Trouble = 2*MinSegment, func(err error) { trouble <- err } })
	var entries []*Entry
	for range 4 {
		entries = append(entries, put(t, s, p.frame(16<<20))...)
	}
	raw := p.frame(16 << 20)
	h, _ := frame.ParseHeader(raw)
	if err := s.Reserve(t.Context(), len(raw)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	s.Append(raw, NewEntry(h, nil), func(err error) { done <- err })
	if err := <-trouble; !errors.Is(err, ErrFull) {
		t.Fatalf("trouble is %v, want ErrFull", err)
	}
	if u := s.Usage(); !u.Failing || u.Disk > u.Limit {
		t.Errorf("usage %+v", u)
	}
	select {
	case err := <-done:
		t.Fatalf("stored beyond the limit: %v", err)
	default:
	}
	s.Free(entries...)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := <-trouble; err != nil {
		t.Errorf("trouble is %v, want its end", err)
	}
	if u := s.Usage(); u.Disk > u.Limit {
		t.Errorf("%d bytes on disk with a limit of %d", u.Disk, u.Limit)
	}
}

// TestAFullDiskIsWaitedFor has the segment's file fail like a full disk does.
func TestAFullDiskIsWaitedFor(t *testing.T) {
	dir, p := t.TempDir(), newPlant(t)
	trouble := make(chan error, 16)
	s, _ := open(t, dir, func(o *Options) { o.Trouble = func(err error) { trouble <- err } })
	put(t, s, p.frame(512))
	// The active file is closed under the writer, and the directory gone: every write
	// and every new segment fails.
	gone := dir + ".gone"
	if err := os.Rename(dir, gone); err != nil {
		t.Fatal(err)
	}
	_ = s.active.file.Close()
	raw := p.frame(512)
	h, _ := frame.ParseHeader(raw)
	if err := s.Reserve(t.Context(), len(raw)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	s.Append(raw, NewEntry(h, nil), func(err error) { done <- err })
	if err := <-trouble; err == nil {
		t.Fatal("no trouble reported")
	}
	if err := os.Rename(gone, dir); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	s, rec := open(t, dir, nil)
	holds(t, s, rec, p.raws)
}

// TestCompactionFreesSegmentsHeldByFewFrames: one frame that cannot be committed must
// not hold a segment for ever.
func TestCompactionFreesSegmentsHeldByFewFrames(t *testing.T) {
	dir, p, stuck := t.TempDir(), newPlant(t), newPlant(t)
	s, _ := open(t, dir, func(o *Options) { o.Limit = 4 * MinSegment })
	for range 12 {
		put(t, s, stuck.frame(512))
		s.Free(put(t, s, p.frame(15<<20), p.frame(15<<20))...)
	}
	if u := s.Usage(); u.Disk > u.Limit || u.Segments > 3 {
		t.Errorf("usage %+v: compaction did not free what is dead", u)
	}
	_ = s.Close()
	s, rec := open(t, dir, nil)
	for _, m := range rec.Machines {
		if m.Machine == stuck.machine {
			holds(t, s, Recovered{Machines: []Machine{m}}, stuck.raws)
			return
		}
	}
	t.Error("the stuck machine's frames are gone")
}

// TestSparesDoNotComeBackToLife: entries of a file's earlier life are not entries.
func TestSparesDoNotComeBackToLife(t *testing.T) {
	dir, p := t.TempDir(), newPlant(t)
	s, _ := open(t, dir, nil)
	for range 10 {
		s.Free(put(t, s, p.frame(16<<20), p.frame(16<<20))...)
	}
	spares, err := filepath.Glob(filepath.Join(dir, "*"+spareSuffix))
	if err != nil || len(spares) == 0 && len(s.spares) == 0 {
		t.Fatalf("no spares were made: %v", err)
	}
	last := newPlant(t)
	put(t, s, last.frame(512))
	path := s.active.path
	_ = s.Close()
	// As after a crash: without the end entry, old bytes follow the last frame.
	wipeEnd(t, path)
	s, rec := open(t, dir, nil)
	if len(rec.Damaged) > 0 {
		t.Errorf("old bytes are taken for damage: %v", rec.Damaged)
	}
	n := 0
	for _, m := range rec.Machines {
		n += len(m.Log)
		if m.Machine == last.machine {
			holds(t, s, Recovered{Machines: []Machine{m}}, last.raws)
		}
	}
	if n > 3 { // the last one, and at most what lies freed in its segment
		t.Errorf("%d frames recovered", n)
	}
}

// wipeEnd takes a segment's end entry away.
func wipeEnd(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seg, err := openSegment(system{}, path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := seg.scan(true)
	if err != nil || !f.ended {
		t.Fatalf("scan: %v, ended %v", err, f.ended)
	}
	copy(b[f.end:f.end+entryHead], bytes.Repeat([]byte{0x5a}, entryHead))
	_ = seg.file.Close()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReserveEndsWithItsContext(t *testing.T) {
	s, _ := open(t, t.TempDir(), nil)
	if err := s.Reserve(t.Context(), maxQueue); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Reserve(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	s.Unreserve(maxQueue)
}

func TestCloseAnswersEverybody(t *testing.T) {
	p := newPlant(t)
	s, _ := open(t, t.TempDir(), nil)
	_ = s.Close()
	raw := p.frame(512)
	h, _ := frame.ParseHeader(raw)
	if err := s.Reserve(t.Context(), len(raw)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	s.Append(raw, NewEntry(h, nil), func(err error) { done <- err })
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// TestGoldenSegment pins the format: what this build writes is what it always wrote.
func TestGoldenSegment(t *testing.T) {
	id := block.MachineID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	var b []byte
	b = appendFileHead(b, 7, time.Unix(1700000000, 5))
	body := appendPositions(nil, []Positions{{
		Machine:     id,
		Spooled:     LogPosition{block.Position{Epoch: 2, Seq: 90}, time.Unix(1700000001, 0)},
		Committed:   LogPosition{block.Position{Epoch: 1, Seq: 80}, time.Unix(1700000000, 0)},
		BaseSpooled: BasePosition{Epoch: 2, N: 4}, BaseCommitted: BasePosition{Epoch: 2, N: 3},
	}})
	b = append(appendEntryHead(b, 7, entryHeader{kind: kindPositions, size: len(body), sum: checksum(body)}), body...)
	raw, err := frame.AppendTick(nil, id, 2, 91, time.Unix(1700000002, 0))
	if err != nil {
		t.Fatal(err)
	}
	b = append(appendEntryHead(b, 7, entryHeader{kind: kindFrame, size: len(raw)}), raw...)
	b = appendPadding(b, 0, 7)
	b = appendEntryHead(b, 7, entryHeader{kind: kindEnd})
	golden := filepath.Join("testdata", "segment.v1")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Fatalf("the format changed without its version: %s", firstDifference(b, want))
	}
	path := segmentPath(t.TempDir(), 7)
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	seg, err := openSegment(system{}, path)
	if err != nil {
		t.Fatal(err)
	}
	defer seg.file.Close()
	f, err := seg.scan(false)
	if err != nil || !f.ended || f.bad != nil || len(f.positions) != 1 || len(f.frames) != 1 || f.positions[0].Spooled.Seq != 90 || f.frames[0].header.First != 91 {
		t.Errorf("scan of the golden segment: %+v, %v", f, err)
	}
}

func firstDifference(a, b []byte) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("byte %d is %#x, was %#x", i, a[i], b[i])
		}
	}
	return fmt.Sprintf("%d bytes, were %d", len(a), len(b))
}
