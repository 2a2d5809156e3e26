package vault

import (
	"fmt"
	"slices"
	"sort"
	"time"
)

// Retention says how densely points are kept as they age. Ages are counted from the
// newest point (or from now, where clocks run ahead), so that a machine that stopped
// sending keeps what it has: points are never thinned away while no newer ones come.
type Retention struct {
	All    time.Duration `json:"all"`    // every point up to this age
	Hourly time.Duration `json:"hourly"` // then one an hour up to this age
	Daily  time.Duration `json:"daily"`  // then one a day up to this age; then none
}

// DefaultRetention keeps every point for 2 hours, hourly ones for a day and daily
// ones for 15 days.
var DefaultRetention = Retention{All: 2 * time.Hour, Hourly: 24 * time.Hour, Daily: 15 * 24 * time.Hour}

// Validate refuses a retention whose stages do not follow each other.
func (r Retention) Validate() error {
	if r.All < 0 || r.Hourly < r.All || r.Daily < r.Hourly {
		return fmt.Errorf("vault: retention of %v, hourly to %v, daily to %v: each stage must reach at least as far back as the one before it", r.All, r.Hourly, r.Daily)
	}
	return nil
}

// aged is a point with the time that counts for its age.
type aged struct {
	Point
	at time.Time
}

// age gives each point, in the order of the log, the time that counts. It is the
// point's own, but for what a clock that was wrong for a while makes of it:
//
//   - where it had run ahead, points behind are earlier, and the clock has not come back
//     to this time since: the earliest of those counts;
//   - where it was behind for a while (a machine without a battery boots in 1970) and has
//     come back, what it said meanwhile tells nothing of the points before, and the
//     points of that while are no older than those before them.
func age(points []Point) []aged {
	n := len(points)
	out := make([]aged, n)
	latest, earliest := make([]time.Time, n), make([]time.Time, n) // of this point and all behind it
	for i, p := range slices.Backward(points) {
		out[i], latest[i], earliest[i] = aged{p, p.Time}, p.Time, p.Time
		if i+1 == n {
			continue
		}
		if latest[i+1].After(p.Time) {
			latest[i] = latest[i+1]
		}
		if earliest[i+1].Before(p.Time) {
			earliest[i] = earliest[i+1]
		}
		// From back on the clock never reached this point's time again.
		back := i + 1 + sort.Search(n-i-1, func(k int) bool { return latest[i+1+k].Before(p.Time) })
		if back < n {
			out[i].at = earliest[back]
		}
	}
	for i := 1; i < n; i++ {
		if out[i].at.Before(out[i-1].at) {
			out[i].at = out[i-1].at
		}
	}
	return out
}

// reference is the moment from which ages count.
func reference(points []aged, now time.Time) time.Time {
	if n := len(points); n > 0 && points[n-1].at.Before(now) {
		return points[n-1].at
	}
	return now
}

// keep returns the points to retain, always the newest among them: its age is zero. Of each hour and day it keeps the newest point,
// and the newest application-consistent one.
func (r Retention) keep(points []aged, now time.Time) []Point {
	ref := reference(points, now)
	hours, days := newest{unit: time.Hour}, newest{unit: 24 * time.Hour}
	var kept []Point
	for _, p := range slices.Backward(points) {
		// Every point takes part in every stage, so that which one stands for its hour
		// does not change while it ages.
		hourly, daily := hours.first(p), days.first(p)
		old := ref.Sub(p.at)
		if p.Locked || old <= r.All || old <= r.Hourly && hourly || old <= r.Daily && daily {
			kept = append(kept, p.Point)
		}
	}
	slices.Reverse(kept)
	return kept
}

// newest finds the newest points of each unit of time, given the newest point first.
type newest struct {
	unit     time.Duration
	any, app int64 // the unit last seen, plus one
}

// first reports whether p is the newest of its unit, of any kind or among the
// application-consistent ones.
func (n *newest) first(p aged) bool {
	unit := p.at.Unix()/int64(n.unit/time.Second) + 1
	first := unit != n.any
	n.any = unit
	if p.Kind != PointCrash {
		first = first || unit != n.app
		n.app = unit
	}
	return first
}
