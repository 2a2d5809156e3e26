package vault

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/controlplane/objstore/storetest"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

var errCrash = errors.New("crash")

// tiny makes short histories take every path: many windows, steps, objects and frames.
func tiny(t *rapid.T, v *Vault) {
	v.limits = limits{
		segments:  rapid.SampledFrom([]int{4, 64}).Draw(t, "segments"),
		minWindow: 8 * sector,
		absorb:    rapid.SampledFrom([]int64{1, 16 * sector, 1 << 20}).Draw(t, "absorb"),
		runFrame:  rapid.SampledFrom([]int{4 * sector, 16 * sector}).Draw(t, "runFrame"),
		runObject: rapid.SampledFrom([]int64{1, 16 * sector, 64 * sector}).Draw(t, "runObject"),
	}
}

// expected is what a retention must leave of the points there are.
func (h *history) expected(t fataler, m *Machine, r Retention) []block.Position {
	points, err := m.Points(context.Background(), time.Time{}, time.Time{})
	if err != nil {
		t.Fatalf("points: %v", err)
	}
	var out []block.Position
	for _, p := range r.keep(age(points), h.now) {
		out = append(out, p.Position)
	}
	return out
}

// TestThinningKeepsEveryRetainedPoint lives random lives over hours and days, thins
// them now and then, crashes some of the thinnings at a random call, and proves after
// each that the points which should be there are, and read as the model says.
func TestThinningKeepsEveryRetainedPoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		h := newHistory(rapid.IntRange(1, 2).Draw(t, "disks"), 64*sector)
		store := mem.New()
		faulty := storetest.NewFaulty(store)
		v, w := setup(t, faulty, h)
		tiny(t, v)
		h.begin(frame.ReasonInitial)
		r := Retention{All: 2 * time.Hour, Hourly: 12 * time.Hour, Daily: 72 * time.Hour}
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			gap := rapid.SampledFrom([]time.Duration{time.Second, 10 * time.Minute, 2 * time.Hour, 11 * time.Hour}).Draw(t, "gap")
			h.drawSteps(t, rapid.IntRange(1, 20).Draw(t, "steps"), w, func() time.Duration { return gap })
			m, err := v.Machine(ctx, h.machine)
			if err != nil {
				t.Fatal(err)
			}
			want := h.expected(t, m, r)
			app, errApp := m.PointAt(ctx, LatestApp)
			if rapid.Bool().Draw(t, "crash") {
				crashAt(faulty, faulty.Calls()+rapid.IntRange(0, 60).Draw(t, "at"))
				_, err := m.Thin(ctx, r)
				faulty.SetRule(nil)
				if err != nil && !errors.Is(err, errCrash) {
					t.Fatalf("thin: %v", err)
				}
				// Whatever was done, what is wanted is still there, for all to see.
				_, other := reopen(t, store, h)
				if got := positions(t, other); !subset(want, got) {
					t.Fatalf("after a crash %v, want all of %v", got, want)
				}
				h.check(t, other, positions(t, other))
				v, w = h.restart(t, faulty)
				tiny(t, v)
				m = must(v.Machine(ctx, h.machine))
			}
			if _, err := m.Thin(ctx, r); err != nil {
				t.Fatalf("thin: %v", err)
			}
			_, other := reopen(t, store, h)
			for _, m := range []*Machine{m, other} {
				if got := positions(t, m); !slices.Equal(got, want) {
					t.Fatalf("after thinning %v, want %v", got, want)
				}
				h.check(t, m, want)
				// The newest application-consistent one stands for its hour and its day.
				if errApp != nil || h.now.Sub(app.Time) > r.Daily {
					continue
				}
				if p, err := m.PointAt(ctx, LatestApp); err != nil || p.Position != app.Position || p.Name != app.Name || p.Kind != PointApp {
					t.Fatalf("%s was %+v, after thinning it is %+v (%v)", LatestApp, app, p, err)
				}
			}
			noGarbage(t, store, other)
		}
	})
}

// TestThinningKeepsAppPoints: of each hour and day the newest application-consistent point
// stays beside the newest of all; one that failed to be is a point like any other.
func TestThinningKeepsAppPoints(t *testing.T) {
	ctx := t.Context()
	h := newHistory(1, 64*sector)
	v, w := setup(t, mem.New(), h)
	h.begin(frame.ReasonInitial)
	h.baseFrame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(sector, 1)})
	h.finish()
	mark := func(kind, name string) {
		h.step(time.Minute)
		h.mark(frame.Mark{Type: frame.MarkPoint, Point: &frame.PointMark{Name: name, Kind: kind}})
	}
	mark("app", "early")
	mark("app", "kept")
	mark("crash", "failed")
	h.step(time.Minute)
	h.tick()
	h.step(30 * time.Hour)
	mark("app", "yesterday's first")
	mark("app", "yesterday's last")
	for range 50 {
		h.step(time.Hour)
		h.tick()
	}
	h.flush(t, w)
	m := must(v.Machine(ctx, h.machine))
	must(m.Thin(ctx, Retention{All: time.Hour, Hourly: 2 * time.Hour, Daily: 15 * 24 * time.Hour}))
	var kept []string
	for _, p := range must(m.Points(ctx, time.Time{}, time.Time{})) {
		if p.Name != "" {
			kept = append(kept, p.Name+" "+string(p.Kind))
		}
	}
	if got := strings.Join(kept, ", "); got != "kept app, yesterday's last app" {
		t.Errorf("named points left: %s", got)
	}
	if p, err := m.PointAt(ctx, LatestApp); err != nil || p.Name != "yesterday's last" {
		t.Errorf("%s is %+v, %v", LatestApp, p, err)
	}
}

// crashAt makes the n-th call of a store and all after it fail.
func crashAt(f *storetest.Faulty, n int) {
	f.SetRule(func(c storetest.Call) storetest.Fault {
		if c.N >= n {
			return storetest.Fault{Err: errCrash, After: c.N == n && c.N%2 == 0}
		}
		return storetest.Fault{}
	})
}

// restart is a new process.
func (h *history) restart(t fataler, store objstore.Store) (*Vault, *Writer) {
	t.Helper()
	v, _ := reopen(t, store, h)
	w, err := v.OpenWriter(context.Background(), h.machine)
	if err != nil {
		t.Fatalf("open writer: %v", err)
	}
	return v, w
}

func subset(want, got []block.Position) bool {
	return !slices.ContainsFunc(want, func(p block.Position) bool { return !slices.Contains(got, p) })
}

// noGarbage proves that a finished thinning leaves only objects that are in use.
func noGarbage(t fataler, store objstore.Store, m *Machine) {
	t.Helper()
	c, err := m.snapshot(context.Background())
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	used := map[string]bool{}
	for _, name := range c.objects() {
		used[name] = true
	}
	last := ""
	for info := range store.List(context.Background(), logPrefix(m.id)) {
		last = info.Key // the last log object stays: its end is not in its name
	}
	for info := range store.List(context.Background(), machinePrefix(m.id)) {
		frames := strings.Contains(info.Key, "/log/") || strings.Contains(info.Key, "/base/") || strings.Contains(info.Key, "/run/")
		if frames && !used[info.Key] && info.Key != last {
			t.Fatalf("garbage after thinning: %s", info.Key)
		}
	}
}

// TestThinningMeetsAFaultAtEveryCall lets one long thinning, over epochs whose bases
// are many objects, crash or meet an error at each of its calls on the store in turn.
func TestThinningMeetsAFaultAtEveryCall(t *testing.T) {
	h := newHistory(2, 64*sector)
	whole := mem.New()
	_, w := setup(t, whole, h)
	for e := range 2 {
		h.begin(frame.ReasonOperator)
		for i := range 2 {
			h.baseFrame(frame.CompressAlways, write{i % 2, frame.OpWrite, int64(i) * 9 * sector, pattern(8*sector, byte(16*e+i))})
			h.flush(t, w)
		}
		h.finish()
		for i := range 2 {
			h.step(5 * time.Hour)
			h.frame(frame.CompressNever, write{i % 2, frame.OpWrite, int64(i) * 5 * sector, pattern(4*sector, byte(32*e+i))})
			h.frame(frame.CompressNever, write{0, frame.OpZero, int64(i) * 7 * sector, make([]byte, sector)})
			h.flush(t, w)
		}
	}
	for name, rule := range map[string]func(call, n int) storetest.Fault{
		"crash": func(call, n int) (f storetest.Fault) {
			if call >= n {
				f.Err = errCrash
			}
			return f
		},
		"error": func(call, n int) (f storetest.Fault) {
			if call == n {
				f.Err = errCrash
			}
			return f
		},
		"answer lost": func(call, n int) (f storetest.Fault) {
			if call == n {
				f.Err, f.After = errCrash, true
			}
			return f
		},
	} {
		t.Run(name, func(t *testing.T) { endEveryThinning(t, h, whole, rule) })
	}
}

func endEveryThinning(t *testing.T, h *history, whole *mem.Store, rule func(call, n int) storetest.Fault) {
	r := Retention{All: time.Hour, Hourly: 11 * time.Hour, Daily: 11 * time.Hour}
	finished := false
	for n := 0; !finished; n++ {
		store := whole.Clone()
		faulty := storetest.NewFaulty(store)
		v, m := reopen(t, faulty, h)
		v.limits = limits{segments: 8, minWindow: 8 * sector, absorb: 1, runFrame: 8 * sector, runObject: 32 * sector}
		want := h.expected(t, m, r)
		start := faulty.Calls()
		faulty.SetRule(func(c storetest.Call) storetest.Fault { return rule(c.N-start, n) })
		_, err := m.Thin(t.Context(), r)
		faulty.SetRule(nil)
		finished = faulty.Calls()-start < n
		if err != nil && !errors.Is(err, errCrash) {
			t.Fatalf("fault at call %d: %v", n, err)
		}
		h.check(t, m, want)             // in the process that met the fault…
		_, other := reopen(t, store, h) // …and in the next
		if got := positions(t, other); !subset(want, got) {
			t.Fatalf("fault at call %d: points %v, want all of %v", n, got, want)
		}
		h.check(t, other, positions(t, other))
		if _, err := other.Thin(t.Context(), r); err != nil {
			t.Fatalf("fault at call %d, then thin: %v", n, err)
		}
		if got := positions(t, other); !slices.Equal(got, want) {
			t.Fatalf("fault at call %d, then thin: points %v, want %v", n, got, want)
		}
		h.check(t, other, want)
	}
}

// hourly is a machine with a point an hour, one object each.
func hourly(t *testing.T, store objstore.Store, n int) (*history, *Machine) {
	t.Helper()
	h := newHistory(1, 64*sector)
	v, w := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	h.finish()
	for i := range n {
		h.step(time.Hour)
		h.frame(frame.CompressNever, write{0, frame.OpWrite, int64(i%8) * sector, pattern(sector, byte(i))})
		h.flush(t, w)
	}
	return h, must(v.Machine(t.Context(), h.machine))
}

// TestAPointLockedDuringAThinning, by another process, is kept: the step is planned anew.
func TestAPointLockedDuringAThinning(t *testing.T) {
	store := mem.New()
	faulty := storetest.NewFaulty(store)
	h, m := hourly(t, faulty, 6)
	_, elsewhere := reopen(t, store, h)
	locked := h.order[2]
	faulty.SetRule(func(c storetest.Call) storetest.Fault {
		if c.Op == "put" && strings.Contains(c.Key, "/run/") && len(must(elsewhere.snapshot(t.Context())).locks) == 0 {
			if err := elsewhere.Lock(t.Context(), locked, ""); err != nil {
				t.Error(err)
			}
		}
		return storetest.Fault{}
	})
	if _, err := m.thin(t.Context(), Retention{}); err != nil {
		t.Fatal(err)
	}
	want := []block.Position{locked, h.order[len(h.order)-1]}
	if got := positions(t, m); !slices.Equal(got, want) {
		t.Fatalf("points %v, want %v", got, want)
	}
	h.check(t, m, want)
}

// TestTwoThinnings: what one is writing is not garbage to the other, and of two that
// make the same generation one starts over.
func TestTwoThinnings(t *testing.T) {
	store := mem.New()
	faulty := storetest.NewFaulty(store)
	h, m := hourly(t, faulty, 6)
	_, elsewhere := reopen(t, store, h)
	done := false
	faulty.SetRule(func(c storetest.Call) storetest.Fault {
		if c.Op == "put" && strings.Contains(c.Key, "/manifest/") && !done {
			done = true
			if _, err := elsewhere.Thin(t.Context(), DefaultRetention); err != nil {
				t.Error(err)
			}
		}
		return storetest.Fault{}
	})
	if _, err := m.Thin(t.Context(), DefaultRetention); err != nil || !done {
		t.Fatal(err)
	}
	h.check(t, m, h.expected(t, m, DefaultRetention))
	noGarbage(t, store, m)

	c := must(m.snapshot(t.Context()))
	inProgress := runName(h.machine, c.manifest.Generation+1, 0, 7)
	if err := store.Put(t.Context(), inProgress, nil); err != nil {
		t.Fatal(err)
	}
	_, next := reopen(t, store, h) // a process's first thinning looks for garbage
	if _, err := next.Thin(t.Context(), DefaultRetention); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Head(t.Context(), inProgress); err != nil {
		t.Fatalf("an object of a thinning at work: %v", err)
	}
	if _, err := m.thin(t.Context(), Retention{}); err != nil { // the next generation
		t.Fatal(err)
	}
	if _, err := store.Head(t.Context(), inProgress); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatalf("an object of a thinning that was cut off: %v", err)
	}
}

// TestOverwrittenDataGoes: what no retained point can show takes up no room for long.
func TestOverwrittenDataGoes(t *testing.T) {
	store := mem.New()
	h := newHistory(1, 4*granule)
	v, w := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	h.finish()
	for i := range 40 {
		h.step(time.Hour)
		h.frame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(4*granule, byte(i))})
		h.flush(t, w)
	}
	m := must(v.Machine(t.Context(), h.machine))
	if _, err := m.Thin(t.Context(), Retention{All: time.Hour, Hourly: 2 * time.Hour, Daily: 2 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	var stored int64
	for info := range store.List(t.Context(), machinePrefix(h.machine)) {
		stored += info.Size
	}
	// Three points of a megabyte that compresses, of forty that were written.
	if image := int64(4 * granule); stored > 4*image {
		t.Fatalf("%d bytes stored for three points of %d", stored, image)
	}
}

// TestThinningHasPatience: called every minute, it makes a generation every few.
func TestThinningHasPatience(t *testing.T) {
	h := newHistory(1, 64*sector)
	v, w := setup(t, mem.New(), h)
	v.limits.patience = defaultLimits.patience
	h.begin(frame.ReasonInitial)
	h.finish()
	h.flush(t, w)
	m := must(v.Machine(t.Context(), h.machine))
	steps := 0
	for i := range 4 * 60 {
		h.step(time.Minute)
		h.frame(frame.CompressNever, write{0, frame.OpWrite, int64(i%32) * sector, pattern(sector, byte(i))})
		h.flush(t, w)
		report, err := m.Thin(t.Context(), DefaultRetention)
		if err != nil {
			t.Fatal(err)
		}
		steps += report.Steps
	}
	// 2 h of frames to absorb in parts of 5 min, and merges of what came of it.
	if got := len(positions(t, m)); steps > 80 || got > 120+2+5 {
		t.Fatalf("%d generations, %d points", steps, got)
	}
	h.check(t, m, positions(t, m))
}

// TestAThinningThatSlept for so many generations that the name of its own is free
// again must not believe that it made the newest manifest.
func TestAThinningThatSlept(t *testing.T) {
	store := mem.New()
	faulty := storetest.NewFaulty(store)
	h, m := hourly(t, faulty, 6)
	_, elsewhere := reopen(t, store, h)
	slept := false
	faulty.SetRule(func(c storetest.Call) storetest.Fault {
		if c.Op == "put" && strings.Contains(c.Key, "/manifest/") && !slept {
			slept = true
			if _, err := elsewhere.Thin(t.Context(), DefaultRetention); err != nil {
				t.Error(err)
			}
			var names []string
			for info := range store.List(t.Context(), manifestPrefix(h.machine)) {
				names = append(names, info.Key)
			}
			for _, name := range names[:len(names)-1] {
				_ = store.Delete(t.Context(), name)
			}
		}
		return storetest.Fault{}
	})
	// One generation would do for it, while the other has made several.
	if _, err := m.thin(t.Context(), Retention{}); err != nil || !slept {
		t.Fatal(err)
	}
	_, other := reopen(t, store, h)
	if got := positions(t, other); !slices.Equal(got, h.order[len(h.order)-1:]) {
		t.Fatalf("points %v", got)
	}
	h.check(t, other, positions(t, other))
	noGarbage(t, store, other)
}

// TestOpeningDuringAThinning: what is collected while the history is read is no damage.
func TestOpeningDuringAThinning(t *testing.T) {
	store := mem.New()
	h, m := hourly(t, store, 6)
	faulty := storetest.NewFaulty(store)
	_, other := reopen(t, faulty, h)
	var once sync.Once
	faulty.SetRule(func(c storetest.Call) storetest.Fault {
		if c.Op == "get" && strings.Contains(c.Key, "/log/") {
			once.Do(func() {
				if _, err := m.Thin(t.Context(), DefaultRetention); err != nil {
					t.Error(err)
				}
			})
		}
		return storetest.Fault{}
	})
	if s := must(other.Status(t.Context())); len(s.Damage) > 0 || s.Last.Seq != h.seq {
		t.Fatalf("%+v", s)
	}
	h.check(t, other, positions(t, other))
}

// TestAgeWithAClockThatWasWrong: a clock that is wrong for a while costs no point that
// is young, and keeps none for ever.
func TestAgeWithAClockThatWasWrong(t *testing.T) {
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	at := func(minutes ...int) (points []Point) {
		for _, m := range minutes {
			points = append(points, Point{Time: noon.Add(time.Duration(m) * time.Minute)})
		}
		return points
	}
	const years = 50 * 365 * 24 * 60
	for name, c := range map[string]struct{ said, counts []Point }{
		"right":                      {at(0, 1, 2), at(0, 1, 2)},
		"ahead, then right":          {at(0, 61, 62, 3, 4), at(0, 3, 3, 3, 4)},
		"years ahead, then right":    {at(0, years, 2, 3), at(0, 2, 2, 3)},
		"behind now":                 {at(0, 1, -years), at(-years, -years, -years)},
		"behind for a while":         {at(0, 1, -years, -years+1, 4), at(0, 1, 1, 1, 4)},
		"behind, then not yet there": {at(0, 5, -60, -59, 4), at(0, 0, 0, 0, 4)},
		"behind twice, then ahead":   {at(0, -60, 2, -60, 4, years, 6), at(0, 0, 2, 2, 4, 6, 6)},
		"one point":                  {at(7), at(7)},
		"none":                       {nil, nil},
	} {
		for i, p := range age(c.said) {
			if !p.at.Equal(c.counts[i].Time) {
				t.Errorf("%s: point %d counts as of %v, want %v", name, i, p.at.Sub(noon), c.counts[i].Time.Sub(noon))
			}
		}
	}
}
