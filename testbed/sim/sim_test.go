package sim

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"testing"
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

// What the tests found, for the page of results.
var (
	tally Tally
	all   []caught
)

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(400) // small worlds, soon gone
	code := m.Run()
	if *report != "" {
		if err := write(*report, tally, all); err != nil {
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
	before := cpuSeconds()
	tally = RunAll(t, *firstSeed, n, Mutant{}, func(r Result) bool {
		if r.Failure != "" {
			failed = append(failed, r)
			t.Errorf("seed %d: %s (again with -sim.seed=%d)", r.Schedule.Seed, r.Failure, r.Schedule.Seed)
		}
		return r.Failure != "" && !*keepGoing
	})
	tally.CPU = cpuSeconds() - before
	t.Log(tally.table())
	if len(failed) > 0 && !*keepGoing {
		t.Error(Shrink(t, failed[0], Mutant{}, *times))
	}
	if len(failed) == 0 && n >= 2500 {
		reached(t, tally)
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
	mutant  string
	seed    uint64
	tried   int // schedules, this one included
	failure string
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
		if r := attempt(t, by.Schedule, Mutant{}, 3); r.Failure != "" {
			t.Errorf("%s: seed %d fails without it, too: %s", m.Name, by.Schedule.Seed, r.Failure)
		}
		t.Logf("%-32s caught by seed %d, after %d schedules: %s", m.Name, by.Schedule.Seed, y.Schedules, by.Failure)
		all = append(all, caught{m.Name, by.Schedule.Seed, y.Schedules, by.Failure})
	}
}
