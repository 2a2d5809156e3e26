package vault

import (
	"fmt"
	"slices"
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

// age gives each point, in the order of the log, the time that counts: its own, or
// the earliest of any behind it where the machine's clock had run ahead.
func age(points []Point) []aged {
	out := make([]aged, len(points))
	for i, p := range slices.Backward(points) {
		out[i] = aged{p, p.Time}
		if i+1 < len(out) && out[i+1].at.Before(p.Time) {
			out[i].at = out[i+1].at
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
