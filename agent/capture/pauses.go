package capture

import "time"

// Pauses say how long the ring may be left alone between two polls. Whoever empties it takes
// a processor away from the writers, and is in their way each time it wakes up: seldom and
// much disturbs them less than often and little. A disk in memory kept 0.87 of its 4 KiB
// writes at a depth of sixteen when polled every 2 ms and 0.97 every 5 ms, 0.58 and 0.68 of
// its writes of 1 MiB; and an idle machine's processor may sleep.
type Pauses struct {
	Least, Most time.Duration
	now         time.Duration
}

const (
	// pauseFill is the share of the ring that a pause should fill, one in so many.
	pauseFill = 8
	// pauseBurst is what writers may begin to write during a pause, bytes a second: half a
	// ring must take it. Two processors wrote 3 GB/s to a disk in memory.
	pauseBurst = 4e9
)

// Next is the next pause, when this many bytes were taken since the last one out of a ring
// of this size; a ring of size zero is one that nobody knows.
func (p *Pauses) Next(taken int64, ring uint64) time.Duration {
	most := min(p.Most, time.Duration(float64(ring)/2/pauseBurst*float64(time.Second)))
	want := most
	if fill := int64(ring / pauseFill); taken > fill/8 {
		want = time.Duration(float64(p.now) * float64(fill) / float64(taken))
	}
	p.now = max(p.Least, min(want, 2*p.now, most))
	return p.now
}
