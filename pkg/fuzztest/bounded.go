// Package fuzztest holds fuzz targets to what they promise besides not crashing: how
// much memory a decoder may take for what it was given.
package fuzztest

import (
	"runtime/metrics"
	"testing"
)

// slack is what an allocation may be off by: the runtime counts small objects by the
// span, per processor, and the fuzzing engine's own goroutines allocate beside us.
const slack = 64 << 10

// tries is how often a decode that seems to take too much is measured again. What it
// takes itself it takes each time.
const tries = 5

// Bounded runs decode and fails the test if it allocated more than limit bytes, freed
// ones included. A decode that seems to have is run again to be sure: it must do the
// same each time.
func Bounded(t testing.TB, limit int, decode func()) {
	t.Helper()
	least := ^uint64(0)
	for range tries {
		before := allocated()
		decode()
		least = min(least, allocated()-before)
		if least <= uint64(limit+slack) {
			return
		}
	}
	t.Fatalf("allocated %d bytes: at most %d are allowed", least, limit)
}

// allocated is how many bytes this process has ever allocated.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
