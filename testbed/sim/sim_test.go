package sim

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	seed      = flag.Int64("sim.seed", -1, "live through this seed's schedule only; if it fails, shrink it and show its trace")
	schedules = flag.Int("sim.schedules", 0, "how many schedules to live through; 0 for a modest number")
	firstSeed = flag.Uint64("sim.first", 0, "the first of their seeds")
	keepGoing = flag.Bool("sim.all", false, "do not stop at the first failure: list them all")
	times     = flag.Int("sim.times", 10, "how often a seed is tried: which goroutine comes first is not the seed's to decide")
	mutants   = flag.String("sim.mutant", "", "only mutants with this in their name")
	report    = flag.String("sim.json", "", "write what was reached, and which seed caught which mutant, to this file")
)

// figures are for the page of results.
type figures struct {
	Date    time.Time `json:"date"`
	Tally   Tally     `json:"schedules"`
	Mutants []caught  `json:"mutants"`
}

var found figures

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(400) // small worlds, soon gone
	code := m.Run()
	if *report != "" {
		found.Date = time.Now().UTC()
		b, err := json.MarshalIndent(found, "", "  ")
		if err == nil {
			err = os.WriteFile(*report, append(b, '\n'), 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// TestSchedules lives through random schedules; each must hold.
func TestSchedules(t *testing.T) {
	if *seed >= 0 {
		if r := attempt(t, NewSchedule(uint64(*seed)), Mutant{}, *times); r.Failure != "" {
			t.Fatal(Shrink(t, r, Mutant{}, *times))
		}
		return
	}
	n := *schedules
	if n == 0 {
		if n = 2500; testing.Short() {
			n = 250
		}
	}
	var failed []Result
	found.Tally = RunAll(t, *firstSeed, n, Mutant{}, func(r Result) bool {
		if r.Failure != "" {
			failed = append(failed, r)
		}
		return r.Failure != "" && !*keepGoing
	})
	t.Log(found.Tally.table())
	for i, r := range failed {
		t.Errorf("seed %d: %s (again with -sim.seed=%d)", r.Schedule.Seed, r.Failure, r.Schedule.Seed)
		if i == 0 && !*keepGoing {
			t.Error(Shrink(t, r, Mutant{}, *times))
		}
	}
	if len(failed) == 0 && n >= 2500 {
		reached(t, found.Tally)
	}
}

// mustReach are states that schedules must come to again and again, or they prove less
// than they say.
var mustReach = []string{
	"agent: ring-overflow", "agent: relay-lost-spool", "agent: unclean-stop", "agent: resized", "agent: device-changed",
	"agent: disk-removed", "agent: operator", "agent: journal-overflow", "relay: lease-lost", "relay: spool-diverged", "relay: spool-failing",
	"relay: vault-full", "relay: vault-unreachable", "ack lost", "ack repeated", "listing late", "store call ambiguous",
	"commit failed", "points thinned away", "thinning broken off", "point locked",
}

func reached(t *testing.T, y Tally) {
	for _, what := range mustReach {
		if y.Counts[what] < 3 {
			t.Errorf("%d schedules came to %q only %d times", y.Schedules, what, y.Counts[what])
		}
	}
}

// caught is which seed caught a mutant, and by which words.
type caught struct {
	Mutant  string `json:"mutant"`
	Seed    uint64 `json:"seed"`
	Tried   int    `json:"schedules"`
	Failure string `json:"failure"`
}

// TestMutants proves that each fault in the design is caught within a bounded number of
// schedules, and says by which.
func TestMutants(t *testing.T) {
	if *seed >= 0 {
		t.Skip("a seed was asked for")
	}
	for _, m := range Mutants {
		if !strings.Contains(m.Name, *mutants) {
			continue
		}
		var by *Result
		y := RunAll(t, *firstSeed, 600, m, func(r Result) bool {
			if r.Failure != "" && by == nil {
				by = &r
			}
			return by != nil
		})
		if by == nil {
			t.Errorf("%s: not caught by %d schedules", m.Name, y.Schedules)
			continue
		}
		t.Logf("%-32s caught by seed %d, after %d schedules: %s", m.Name, by.Schedule.Seed, y.Schedules, by.Failure)
		found.Mutants = append(found.Mutants, caught{m.Name, by.Schedule.Seed, y.Schedules, by.Failure})
	}
}

// table is the tally as a person reads it.
func (y Tally) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d schedules in %.1f s: %.0f/s, %.1f hours lived\n", y.Schedules, y.Seconds, y.PerSecond, y.LivedHours)
	for _, k := range slices.Sorted(maps.Keys(y.Counts)) {
		fmt.Fprintf(&b, "%10d  %s\n", y.Counts[k], k)
	}
	return b.String()
}
