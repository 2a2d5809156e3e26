package sim

import (
	"slices"
	"testing"
)

// Shrink looks for the fewest operations that still fail: it takes out halves, quarters
// and so on down to single ones. Which goroutine comes first is not the seed's to decide,
// so each attempt lives through its schedule up to times times. It returns the smallest
// failure it saw, with its trace.
func Shrink(t *testing.T, r Result, m Mutant, times int) Result {
	best := r
	if again := attempt(t, r.Schedule, m, times); again.Failure != "" {
		best = again // with a trace
	}
	for size := (len(best.Schedule.Ops) + 1) / 2; size > 0; {
		smaller := false
		for at := 0; at < len(best.Schedule.Ops); {
			s := best.Schedule
			s.Ops = slices.Delete(slices.Clone(s.Ops), at, min(at+size, len(s.Ops)))
			if r := attempt(t, s, m, times); r.Failure != "" {
				best, smaller = r, true
			} else {
				at += size
			}
		}
		if !smaller || size > 1 {
			size /= 2
		}
	}
	return best
}

func attempt(t *testing.T, s Schedule, m Mutant, times int) (r Result) {
	for range times {
		if r = Run(t, s, m, true); r.Failure != "" {
			break
		}
	}
	return r
}
