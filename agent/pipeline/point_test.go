package pipeline

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/consistency"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// frozen stands for file systems that freeze: while they are, nobody writes.
type frozen struct {
	w     *world
	fails error                     // the scripts, before anything is frozen
	still error                     // what the freezer answers
	hold  func(ctx context.Context) // what happens while all is frozen
	jobs  []consistency.Job
	state int // how many writes there had been
}

func (f *frozen) Run(ctx context.Context, j consistency.Job, mark consistency.Mark) consistency.Outcome {
	f.jobs = append(f.jobs, j)
	if f.fails != nil {
		return consistency.Outcome{Problem: f.fails}
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(j.Deadline, consistency.DefaultDeadline))
	defer cancel()
	release := j.Hold()
	defer release()
	f.w.k.mu.Lock()
	f.state = len(f.w.k.history) - 1
	f.w.k.mu.Unlock()
	if f.hold != nil {
		f.hold(ctx)
	}
	if err := context.Cause(ctx); err != nil {
		return consistency.Outcome{Problem: err}
	}
	err := mark(ctx, func() error { return f.still })
	return consistency.Outcome{Problem: err}
}

// steady is a world whose agent makes points, past its first copy.
func steady(t *testing.T, seed uint64) (*world, *frozen) {
	return steadyWith(newWorld(t, seed))
}

func steadyWith(w *world) (*world, *frozen) {
	f := &frozen{w: w}
	w.quiesce = f
	w.start(capture.Resume{})
	w.burst(5)
	w.settled()
	return w, f
}

func (w *world) wish(s desired.State) {
	s.Disks = w.disks
	w.p.Wish(context.Background(), s, w.k.found())
	time.Sleep(3 * time.Second)
	w.plant.commit()
}

// marks are the points' marks in the log, with what the disks held there: the number of
// the newest write that is in the image.
func (w *world) marks() (marks []frame.PointMark, states []int) {
	w.plant.mu.Lock()
	defer w.plant.mu.Unlock()
	for i, raw := range w.plant.log {
		f, err := frame.Parse(raw)
		if err != nil {
			w.t.Fatal(err)
		}
		m, err := f.Mark()
		if err != nil || m.Type != frame.MarkPoint {
			continue
		}
		img := state(w.plant.image(i+1), w.disks)
		marks = append(marks, *m.Point)
		states = append(states, slices.IndexFunc(w.k.history, func(s []uint64) bool { return slices.Equal(s, img) }))
	}
	return marks, states
}

// TestPointHoldsExactlyWhatWasWritten: everything submitted before the freeze is before
// the mark, and nothing that came after it.
func TestPointHoldsExactlyWhatWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := steady(t, 1)
		w.burst(7)
		w.wish(desired.State{Point: desired.PointWish{Once: 1, Name: "first", App: true}})
		w.burst(3)
		w.settled()
		marks, states := w.marks()
		if len(marks) != 1 || marks[0] != (frame.PointMark{Name: "first", Kind: "app"}) || states[0] != f.state {
			t.Errorf("marks %+v at %v, frozen at %d", marks, states, f.state)
		}
		if p := w.p.Status().Point; p == nil || p.Once != 1 || p.Kind != desired.PointApp || p.At.Seq == 0 {
			t.Errorf("status %+v", p)
		}
		if j := f.jobs[0]; !j.Scripts || len(j.Disks) != 2 || !slices.Contains(j.Disks, "7:0") || !slices.Contains(j.Disks, "7:1") {
			t.Errorf("job %+v", j)
		}
		// Asked for once, it is made once, also by the agent's next life.
		w.kill()
		w.start(capture.Resume{Intact: true})
		w.wish(desired.State{Point: desired.PointWish{Once: 1, Name: "first", App: true}})
		if marks, _ := w.marks(); len(marks) != 1 {
			t.Errorf("made again: %+v", marks)
		}
		w.check()
		w.kill()
	})
}

// TestPointThatCannotBeConsistent says why, in the log and in an event.
func TestPointThatCannotBeConsistent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := steady(t, 2)
		f.fails = errors.New("a script hung")
		w.wish(desired.State{Point: desired.PointWish{Once: 1, Name: "one", App: true}})
		f.fails, f.still = nil, errors.New("thawed by somebody else")
		w.wish(desired.State{Point: desired.PointWish{Once: 2, Name: "two", App: true}})
		w.wish(desired.State{Point: desired.PointWish{Once: 3, Name: "three"}})
		marks, _ := w.marks()
		want := []frame.PointMark{{Name: "one", Kind: "crash", Problem: "a script hung"}, {Name: "two", Kind: "crash", Problem: "thawed by somebody else"}, {Name: "three", Kind: "crash"}}
		if !slices.Equal(marks, want) {
			t.Errorf("marks %+v, want %+v", marks, want)
		}
		told := 0
		for _, e := range w.events {
			if e.Type == "app-point-failed" && e.Remedy != "" {
				told++
			}
		}
		if told != 2 {
			t.Errorf("%d events of two failures: %+v", told, w.events)
		}
		w.kill()
	})
}

// TestDoubtBreaksThePoint: a log interrupted while all is frozen takes no mark; the point
// is made when it goes on.
func TestDoubtBreaksThePoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := steady(t, 3)
		f.hold = func(ctx context.Context) {
			f.hold = nil
			w.burst(400) // more than the ring holds
		}
		w.wish(desired.State{Point: desired.PointWish{Once: 1, Name: "first", App: true}})
		w.settled()
		marks, _ := w.marks()
		if len(marks) != 1 || marks[0].Kind != "app" || len(f.jobs) < 2 {
			t.Errorf("after %d attempts: %+v", len(f.jobs), marks)
		}
		if p := w.p.Status(); p.Epoch < 2 {
			t.Errorf("epoch %d: there was no doubt", p.Epoch)
		}
		w.check()
		w.kill()
	})
}

// TestFullMemoryEndsTheAttempt: frames that memory cannot take would go to a disk stage
// that may be frozen. The attempt ends before one is refused, and no resync is needed. The
// next point is made as if nothing had been: in every second world there was none.
func TestFullMemoryEndsTheAttempt(t *testing.T) {
	for seed := range uint64(3) {
		synctest.Test(t, func(t *testing.T) {
			small := newWorld(t, seed)
			small.memory = 256 << 10
			w, f := steadyWith(small)
			w.k.capacity = 1000
			f.hold = func(ctx context.Context) {
				f.hold = nil
				for ctx.Err() == nil { // others write on; the relay is away
					w.burst(1)
					time.Sleep(time.Millisecond)
				}
			}
			w.disconnect()
			w.wish(desired.State{Point: desired.PointWish{Once: 1, Name: "first", App: true}})
			w.connect(context.Background())
			w.settled()
			marks, _ := w.marks()
			if len(marks) != 1 || marks[0].Kind != "crash" || marks[0].Problem != errCramped.Error() {
				t.Errorf("marks %+v", marks)
			}
			if p := w.p.Status(); p.Epoch != 1 {
				t.Errorf("epoch %d (%s): the point cost a resync", p.Epoch, p.Reason)
			}
			w.wish(desired.State{Point: desired.PointWish{Once: 2, Name: "second", App: true}})
			w.settled()
			if marks, _ := w.marks(); len(marks) != 2 || marks[1].Kind != "app" {
				t.Errorf("after it: marks %+v", marks)
			}
			w.kill()
		})
	}
}

// TestPolicyMakesPoints: again and again, in silence.
func TestPolicyMakesPoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := steady(t, 5)
		before := len(w.events)
		s := desired.State{Policy: desired.Policy{Consistency: desired.Consistency{AppSeconds: 60, NoScripts: true}}}
		w.wish(s)
		time.Sleep(5 * time.Minute)
		w.settled()
		marks, _ := w.marks()
		if len(marks) < 5 || len(marks) > 8 {
			t.Errorf("%d points in six minutes, one a minute was wanted", len(marks))
		}
		if len(w.events) != before {
			t.Errorf("events of points that nobody asked for: %+v", w.events[before:])
		}
		w.kill()
	})
}

// TestPointEndsAsTheAgentDoes: what tells of its end is waiting already when the agent
// ends, and must not be lost for it.
func TestPointEndsAsTheAgentDoes(t *testing.T) {
	m := &making{cancel: func(error) {}, done: make(chan struct{})}
	p := &Pipeline{making: m, calls: make(chan func() error, 1)}
	p.calls <- func() error {
		p.making = nil
		close(m.done)
		return nil
	}
	p.stopPoint()
	if p.making != nil {
		t.Error("it is still being made")
	}
}
