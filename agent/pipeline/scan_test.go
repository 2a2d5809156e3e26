package pipeline

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/consistency"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// counting sees of the fake kernel's disks only that somebody wrote.
type counting struct {
	source
	at    int // writes when it was armed
	lost  *bool
	armed *bool
}

func counts(s capture.Source) capture.Source {
	k := s.(source)
	return &counting{source: k, lost: new(bool), armed: new(bool)}
}

func (c *counting) writes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.history)
}

func (c *counting) look() bool {
	*c.lost = *c.lost || *c.armed && c.writes() != c.at
	return *c.lost
}

func (c *counting) Arm(context.Context) (capture.Armed, error) {
	c.at, *c.armed, *c.lost = c.writes(), true, false
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stretch++
	return capture.Armed{Generation: c.stretch, Ring: c.ringID}, nil
}
func (c *counting) Armed() (capture.Armed, bool) { return capture.Armed{}, false }
func (c *counting) Disarm() error                { *c.armed = false; return nil }
func (c *counting) Poll(func(capture.Record) bool) (int, bool, error) {
	return 0, *c.armed && c.look(), nil
}
func (c *counting) Polled() uint64                            { return 0 }
func (c *counting) Behind() bool                              { return false }
func (c *counting) Advance(uint64) error                      { return nil }
func (c *counting) SwapDirty(context.Context) (uint64, error) { return 0, nil }
func (c *counting) Dirty(block.DiskID) (*block.Set, error) {
	return block.NewSet(block.Extent{Len: blocks * blockSize}), nil
}
func (c *counting) Health() (capture.Health, error) {
	h := capture.Health{Armed: !c.look()}
	if *c.lost {
		h.Losses = []capture.Loss{{Reason: capture.NotCaptured, Cause: "written", Count: 1}}
	}
	return h, nil
}

// freezing lets nobody write while it freezes, unless told otherwise, and writes on when
// all is thawed.
type freezing struct {
	w       *world
	during  func()
	runs    int
	frozen  bool
	problem error
}

func (f *freezing) Run(ctx context.Context, j consistency.Job, mark consistency.Mark) consistency.Outcome {
	defer j.Hold()()
	f.runs++
	f.frozen = true
	if f.during != nil {
		f.during()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, j.Deadline, errors.New("the deadline has passed"))
	defer cancel()
	f.problem = mark(ctx, func() error { return nil })
	f.frozen = false
	return consistency.Outcome{Problem: f.problem, Mounts: []string{"/"}}
}

// scanned is a world whose writes are not captured; somebody writes ten times a second
// unless all is frozen.
func scanned(t *testing.T, seed uint64) (*world, *freezing) {
	w := newWorld(t, seed)
	f := &freezing{w: w}
	w.quiesce, w.wrap, w.scan = f, counts, true
	w.start(capture.Resume{})
	go func() {
		for {
			select {
			case <-t.Context().Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			if !f.frozen {
				w.burst(1)
			}
		}
	}()
	return w, f
}

// pass lets time go by, while the vault takes what comes and says so.
func (w *world) pass(d time.Duration) {
	for range int(d / time.Second) {
		time.Sleep(time.Second)
		w.take()
	}
}

func (w *world) take() {
	w.plant.commit()
	spooled, committed := w.plant.acks()
	w.p.Acked(context.Background(), spooled, committed)
}

func (w *world) told(kind string) (n int) {
	for _, e := range w.events {
		if e.Type == kind {
			n++
		}
	}
	return n
}

func scanPolicy(resync uint64) desired.State {
	return desired.State{Resync: resync, Policy: desired.Policy{Consistency: desired.Consistency{ScanSeconds: 3600, ScanFreezeSeconds: 60}}}
}

// TestScansMakeExactPoints: without a policy nothing is frozen, and the operator is told
// what to do; with one, each scan makes points, each of which is what the disks held, and
// the first write after the thaw ends them.
func TestScansMakeExactPoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := scanned(t, 1)
		w.pass(10 * time.Second)
		if s := w.p.Status(); s.Phase != desired.PhaseScan || s.Problem == nil || s.Scan == nil || f.runs != 0 || w.check() != 0 {
			t.Fatalf("without a policy: %+v, %d freezes", s, f.runs)
		}
		w.wish(scanPolicy(0))
		w.pass(time.Minute)
		first := w.check()
		if f.runs != 1 || f.problem != nil || first == 0 || w.told("scanned") != 1 {
			t.Fatalf("%d freezes (%v), %d points, events %+v", f.runs, f.problem, first, w.events)
		}
		s := w.p.Status()
		if s.Phase != desired.PhaseScan || s.Problem != nil || s.Reason != string(frame.ReasonNotCaptured) || time.Until(s.Scan.Next) < 50*time.Minute {
			t.Errorf("after a scan: %+v, %+v", s, s.Scan)
		}
		w.pass(30 * time.Minute)
		if again := w.check(); again != first || f.runs != 1 {
			t.Errorf("%d points and %d freezes half an hour later, want %d and 1", again, f.runs, first)
		}
		w.pass(40 * time.Minute)
		if w.check() <= first || f.runs != 2 {
			t.Errorf("%d points and %d freezes after more than an hour, want more than %d and 2", w.check(), f.runs, first)
		}
		before := w.check()
		w.wish(scanPolicy(1)) // an operator asks for a resync
		w.pass(time.Minute)
		if w.check() <= before || f.runs != 3 || w.p.Status().Resync != 1 {
			t.Errorf("a resync that was asked for made no point: %d freezes, %+v", f.runs, w.p.Status())
		}
		w.kill()
	})
}

// TestScanOfWhatCannotBeFrozen: whoever writes while all is frozen makes the scan come to
// nothing, by name, and another is tried sooner.
func TestScanOfWhatCannotBeFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := scanned(t, 2)
		f.during = func() { // on the disk itself
			go func() {
				time.Sleep(1500 * time.Millisecond)
				w.burst(1)
			}()
		}
		// The vault takes so long that the second compare waits for it.
		w.p.Wish(t.Context(), func() desired.State { s := scanPolicy(0); s.Disks = w.disks; return s }(), w.k.found())
		for range 120 {
			time.Sleep(time.Second)
			if f.frozen {
				time.Sleep(2 * time.Second)
			}
			w.take()
		}
		if w.check() != 0 || f.problem == nil || !strings.Contains(f.problem.Error(), "written") || w.told("scan-failed") != 1 {
			t.Fatalf("%v, events %+v", f.problem, w.events)
		}
		i := slices.IndexFunc(w.events, func(e desired.Event) bool { return e.Type == "scan-failed" })
		if w.events[i].Remedy == "" {
			t.Errorf("no remedy: %+v", w.events[i])
		}
		f.during = nil
		w.pass(scanAgain)
		if w.check() == 0 || f.runs != 2 {
			t.Errorf("no point after another try: %d freezes, %v", f.runs, f.problem)
		}
		w.kill()
	})
}

// TestAgentEndsWhileFrozen: everything is thawed, and the next agent scans anew.
func TestAgentEndsWhileFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := scanned(t, 3)
		w.wish(scanPolicy(0))
		for !f.frozen {
			time.Sleep(10 * time.Millisecond)
			w.take()
		}
		w.kill()
		if f.frozen {
			t.Fatal("the agent ended, and all is frozen")
		}
		points := w.check()
		w.start(capture.Resume{})
		w.wish(scanPolicy(0))
		w.pass(2 * time.Minute)
		if w.check() <= points || f.problem != nil {
			t.Errorf("%d points, %d before, %v", w.check(), points, f.problem)
		}
		w.kill()
	})
}
