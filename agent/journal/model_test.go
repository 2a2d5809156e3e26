package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/pkg/block"
)

// TestAgainstModel holds the journal against two numbers: what was appended and what
// was released, over stops, kills, reboots after a clean stop and size changes.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		o := testOptions(t, 4096*rapid.Int64Range(4, 16).Draw(rt, "memory"), 4096*rapid.Int64Range(0, 3).Draw(rt, "spill")*16)
		o.boot = bootID{1}
		m := &model{t: t, rt: rt, o: o}
		m.j, _ = mustOpen(t, o)
		for range rapid.IntRange(1, 50).Draw(rt, "steps") {
			m.step(rapid.SampledFrom([]string{"append", "append", "append", "append", "next", "release", "release", "reopen", "kill", "reboot"}).Draw(rt, "op"))
		}
		m.j.Close()
	})
}

type model struct {
	t              *testing.T
	rt             *rapid.T
	o              Options
	j              *Journal
	last, released block.Seq
}

func (m *model) step(op string) {
	switch op {
	case "append":
		err := m.j.Append(testFrame(m.t, m.last+1, rapid.IntRange(1, 9000).Draw(m.rt, "n")), uint64(m.last+1)*100)
		if err == nil {
			m.last++
		} else if !errors.Is(err, ErrFull) || m.last == m.released && m.last > 0 {
			m.rt.Fatalf("append %d with %d released: %v, %+v", m.last+1, m.released, err, m.j.Stats())
		}
	case "release":
		m.released += block.Seq(rapid.IntRange(0, int(m.last-m.released)).Draw(m.rt, "count"))
		m.j.Release(m.released)
	case "next":
		m.next(block.Seq(rapid.IntRange(0, int(m.last)).Draw(m.rt, "after")))
	case "reopen":
		m.j.Close()
		m.reopen(true)
	case "kill":
		killed := kill(m.t, m.o)
		m.j.Close()
		m.o = killed
		m.reopen(true)
	case "reboot":
		if m.o.SpillBytes == 0 || m.j.Stats().MemoryBytes+m.j.Stats().SpillBytes+4096*int64(m.j.Stats().Frames) > m.o.SpillBytes/2 {
			return // not all of it would fit on the disk
		}
		if err := m.j.SaveDurable(State{CleanStop: true, LastSeq: m.last}); err != nil {
			m.rt.Fatal(err)
		}
		m.j.Close()
		m.o = reboot(m.t, m.o)
		m.reopen(false)
	}
}

func (m *model) next(after block.Seq) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if after == m.last {
		cancel() // it would wait
	}
	raw, err := m.j.Next(ctx, after)
	switch {
	case after == m.last:
		if !errors.Is(err, context.Canceled) {
			m.rt.Fatalf("next after the last frame: %v", err)
		}
	case after < m.released:
		if !errors.Is(err, ErrGap) {
			m.rt.Fatalf("next after %d with %d released: %v", after, m.released, err)
		}
	case err != nil:
		m.rt.Fatalf("next after %d: %v", after, err)
	default:
		checkFrame(m.t, raw, after+1)
	}
}

func (m *model) reopen(sameBoot bool) {
	var rec Recovered
	m.j, rec = mustOpen(m.t, m.o)
	want := Recovered{Released: m.released, SameBoot: sameBoot, Clean: !sameBoot, Found: rec.Found, State: rec.State, Moved: rec.Moved}
	if m.last > m.released {
		want.First, want.Last, want.Frames = m.released+1, m.last, int(m.last-m.released)
	}
	if sameBoot {
		want.RingPos = uint64(m.last) * 100
		if rec.RingPos == 0 && rec.Frames == 0 {
			want.RingPos = 0 // everything was released before a reboot
		}
	}
	if fmt.Sprint(rec) != fmt.Sprint(want) {
		m.rt.Fatalf("recovered %+v, want %+v", rec, want)
	}
}

// TestReaderAndWriterTogether appends, reads and releases at the same time through
// both stages; run it with -race.
func TestReaderAndWriterTogether(t *testing.T) {
	const frames = 3000
	j, _ := mustOpen(t, testOptions(t, 256<<10, 512<<10))
	var wg sync.WaitGroup
	wg.Go(func() {
		for seq := block.Seq(1); seq <= frames; {
			err := j.Append(testFrame(t, seq, int(seq%40)*512+1), uint64(seq)*100)
			if err == nil {
				seq++
			} else if !errors.Is(err, ErrFull) {
				t.Error(err)
				return
			}
		}
	})
	wg.Go(func() {
		for seq := block.Seq(1); seq <= frames; seq++ {
			mustNext(t, j, seq)
			if seq%20 == 0 {
				j.Release(seq - 5)
			}
		}
	})
	wg.Go(func() {
		for j.Stats().Last < frames && !t.Failed() {
			if err := j.SaveState(State{LastSeq: j.State().LastSeq + 1}); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if s := j.Stats(); s.SpilledBytes == 0 {
		t.Errorf("the disk stage was not in use: %+v", s)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

func TestNextWaits(t *testing.T) {
	j, _ := mustOpen(t, testOptions(t, 64<<10, 0))
	got := make(chan error)
	next := func(after block.Seq) {
		_, err := j.Next(context.Background(), after)
		got <- err
	}
	go next(0)
	mustAppend(t, j, 1, 10)
	if err := <-got; err != nil {
		t.Errorf("next gives %v", err)
	}
	go next(1)
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if err := <-got; !errors.Is(err, ErrClosed) {
		t.Errorf("next gives %v after Close", err)
	}
}

// TestHandedOutFramesOutliveClose reads what Next gave after the journal is closed.
func TestHandedOutFramesOutliveClose(t *testing.T) {
	o := testOptions(t, 64<<10, 0)
	j, _ := mustOpen(t, o)
	mustAppend(t, j, 1, 1000)
	raw, err := j.Next(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	j.Close()
	again, rec := mustOpen(t, o) // the lock was given up nevertheless
	defer again.Close()
	wantRetained(t, again, rec, 1, 1)
	checkFrame(t, raw, 1)
}
