package pipeline

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
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
func (c *counting) Doze() <-chan struct{}                     { return nil }
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

// freezing is a freezer. What is frozen, the world's clock does not write to (see pass).
type freezing struct {
	mu      sync.Mutex
	frozen  bool
	runs    int
	problem error // of the last run
}

func (f *freezing) Run(ctx context.Context, j consistency.Job, mark consistency.Mark) consistency.Outcome {
	defer j.Hold()()
	f.note(func() { f.frozen, f.runs = true, f.runs+1 })
	ctx, cancel := context.WithTimeoutCause(ctx, j.Deadline, errors.New("the deadline has passed"))
	defer cancel()
	err := mark(ctx, func() error { return nil })
	f.note(func() { f.frozen, f.problem = false, err })
	return consistency.Outcome{Problem: err, Mounts: []string{"/"}}
}

func (f *freezing) note(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *freezing) look() (frozen bool, runs int, problem error) {
	f.note(func() { frozen, runs, problem = f.frozen, f.runs, f.problem })
	return frozen, runs, problem
}

// scanned is a world whose writes are not captured.
func scanned(t *testing.T, seed uint64) (*world, *freezing) {
	w := newWorld(t, seed)
	f := &freezing{}
	w.quiesce, w.wrap, w.scan = f, counts, true
	w.start(capture.Resume{})
	return w, f
}

// pass lets time go by. Somebody writes ten times a second unless all is frozen, or then,
// too; the vault takes what comes, and says so.
func (w *world) pass(f *freezing, d time.Duration, then bool) {
	for i := range int(d / (100 * time.Millisecond)) {
		time.Sleep(100 * time.Millisecond)
		if frozen, _, _ := f.look(); !frozen || then {
			w.burst(1)
		}
		if i%10 == 0 {
			w.take()
		}
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
		w.pass(f, 10*time.Second, false)
		if s := w.p.Status(); s.Phase != desired.PhaseScan || s.Problem == nil || s.Scan == nil || w.check() != 0 {
			t.Fatalf("without a policy: %+v", s)
		}
		w.wish(scanPolicy(0))
		w.pass(f, time.Minute, false)
		first := w.check()
		if _, runs, problem := f.look(); runs != 1 || problem != nil || first == 0 || w.told("scanned") != 1 {
			t.Fatalf("%d freezes (%v), %d points, events %+v", runs, problem, first, w.events)
		}
		s := w.p.Status()
		if s.Phase != desired.PhaseScan || s.Problem != nil || s.Reason != string(frame.ReasonNotCaptured) || time.Until(s.Scan.Next) < 50*time.Minute {
			t.Errorf("after a scan: %+v, %+v", s, s.Scan)
		}
		w.pass(f, 30*time.Minute, false)
		if _, runs, _ := f.look(); w.check() != first || runs != 1 {
			t.Errorf("%d points and %d freezes half an hour later, want %d and 1", w.check(), runs, first)
		}
		w.pass(f, 40*time.Minute, false)
		if _, runs, _ := f.look(); w.check() <= first || runs != 2 {
			t.Errorf("%d points and %d freezes after more than an hour, want more than %d and 2", w.check(), runs, first)
		}
		before := w.check()
		w.wish(scanPolicy(1)) // an operator asks for a resync
		w.pass(f, time.Minute, false)
		if _, runs, _ := f.look(); w.check() <= before || runs != 3 || w.p.Status().Resync != 1 {
			t.Errorf("a resync that was asked for made no point: %d freezes, %+v", runs, w.p.Status())
		}
		w.kill()
	})
}

// TestScanOfWhatCannotBeFrozen: whoever writes while all is frozen makes the scan come to
// nothing, by name, and another is tried sooner.
func TestScanOfWhatCannotBeFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := scanned(t, 2)
		w.p.Wish(t.Context(), func() desired.State { s := scanPolicy(0); s.Disks = w.disks; return s }(), w.k.found())
		w.pass(f, 2*time.Minute, true)
		_, _, problem := f.look()
		if w.check() != 0 || problem == nil || !strings.Contains(problem.Error(), "written") || w.told("scan-failed") != 1 {
			t.Fatalf("%v, events %+v", problem, w.events)
		}
		i := slices.IndexFunc(w.events, func(e desired.Event) bool { return e.Type == "scan-failed" })
		if w.events[i].Remedy == "" {
			t.Errorf("no remedy: %+v", w.events[i])
		}
		w.pass(f, scanAgain, false)
		if _, runs, problem := f.look(); w.check() == 0 || runs != 2 {
			t.Errorf("no point after another try: %d freezes, %v", runs, problem)
		}
		w.kill()
	})
}

// TestAgentEndsWhileFrozen: everything is thawed, and the next agent scans anew.
func TestAgentEndsWhileFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := scanned(t, 3)
		w.wish(scanPolicy(0))
		for frozen := false; !frozen; frozen, _, _ = f.look() {
			time.Sleep(10 * time.Millisecond)
			w.take()
		}
		w.kill()
		if frozen, _, _ := f.look(); frozen {
			t.Fatal("the agent ended, and all is frozen")
		}
		points := w.check()
		w.start(capture.Resume{})
		w.wish(scanPolicy(0))
		w.pass(f, 2*time.Minute, false)
		if _, _, problem := f.look(); w.check() <= points || problem != nil {
			t.Errorf("%d points, %d before, %v", w.check(), points, problem)
		}
		w.kill()
	})
}
