package capture

import (
	"testing"
	"time"
)

// TestBootTimeOfADisturbedReading: whoever was interrupted between its readings of the two
// clocks dated records too early, and a recovery point held a write that was begun after it.
func TestBootTimeOfADisturbedReading(t *testing.T) {
	origin := time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)
	for disturbed := range 40 { // the reading behind which 5 ms go by, one after the other
		var up time.Duration
		n := 0
		read := func() time.Duration {
			at := up
			if up += 30; n == disturbed || n == 7 {
				up += 5 * time.Millisecond
			}
			n++
			return at
		}
		got := bootTime(func() time.Time { return origin.Add(read()) }, read)
		if off := got.Sub(origin).Abs(); off > clockApart {
			t.Errorf("disturbed behind reading %d: off by %s, want at most %s", disturbed, off, clockApart)
		}
	}
}

// TestBootTimeOfSlowClocks: clocks that take long to read (an emulated machine's) still say
// something, the best of what was read.
func TestBootTimeOfSlowClocks(t *testing.T) {
	origin := time.Date(2026, 11, 30, 8, 0, 0, 0, time.UTC)
	var up time.Duration
	read := func() time.Duration { up += 20 * time.Microsecond; return up }
	got := bootTime(func() time.Time { return origin.Add(read()) }, read)
	if off := got.Sub(origin).Abs(); off > 40*time.Microsecond {
		t.Errorf("off by %s", off)
	}
}
