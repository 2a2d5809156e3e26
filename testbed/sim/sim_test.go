package sim

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

var (
	seed      = flag.Int64("sim.seed", -1, "live through this seed's schedule only, with a trace")
	schedules = flag.Int("sim.schedules", 0, "how many schedules TestSchedules lives through; 0 for a modest number")
	firstSeed = flag.Uint64("sim.first", 0, "the first of their seeds")
	times     = flag.Int("sim.times", 10, "how often that seed: which goroutine comes first is not the seed's to decide")
	keepGoing = flag.Bool("sim.all", false, "do not stop at the first failure: list them all")
)

// TestSchedules lives through random schedules; each must hold.
func TestSchedules(t *testing.T) {
	if *seed >= 0 {
		for range *times {
			if r := Run(t, NewSchedule(uint64(*seed)), Mutant{}, true); r.Failure != "" {
				t.Fatal(r)
			}
		}
		return
	}
	n := *schedules
	if n == 0 {
		if n = 3000; testing.Short() {
			n = 300
		}
	}
	var failed []Result
	tally := RunAll(t, *firstSeed, n, Mutant{}, func(r Result) bool {
		if r.Failure != "" {
			failed = append(failed, r)
			fmt.Println(r.Schedule.Seed, r.Failure)
		}
		return r.Failure != "" && !*keepGoing
	})
	t.Log(tally.table())
	for _, r := range failed {
		t.Errorf("seed %d: %s", r.Schedule.Seed, r.Failure)
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
