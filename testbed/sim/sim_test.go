package sim

import (
	"testing"
	"time"
)

func TestFirst(t *testing.T) {
	for seed := range uint64(300) {
		start := time.Now()
		r := Run(t, NewSchedule(seed), Mutant{}, true)
		if time.Since(start) > time.Second {
			t.Logf("seed %d: %v real, %v fake: %s", seed, time.Since(start), r.Lasted, r.Failure)
		}
		if r.Failure != "" {
			t.Fatal(r)
		}
	}
}
