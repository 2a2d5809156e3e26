package vault

import (
	"context"
	"errors"
	"slices"
	"strings"
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
			}
			noGarbage(t, store, other)
		}
	})
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
