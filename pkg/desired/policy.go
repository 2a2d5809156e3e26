package desired

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Policy is the part of a machine's policy that its agent acts on.
type Policy struct {
	Name        string   `json:"name"`
	RPOTargetMS int64    `json:"rpo_target_ms"`
	Throttle    []Window `json:"throttle,omitempty"`
	Consistency
}

// RPOTarget is the age that the newest recovery point should not exceed.
func (p Policy) RPOTarget() time.Duration { return time.Duration(p.RPOTargetMS) * time.Millisecond }

// Window bounds what a machine sends at some hours, in the machine's local time.
// From and To are HH:MM; To is excluded; a window may pass midnight and belongs to
// the day it begins on; equal ends are the whole day.
type Window struct {
	Days           []string `json:"days,omitempty" doc:"mon to sun; none means every day."`
	From           string   `json:"from" doc:"HH:MM"`
	To             string   `json:"to" doc:"HH:MM"`
	BytesPerSecond int64    `json:"bytes_per_second"`
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} // as time.Weekday counts

// ThrottleAt is the bound at this moment in bytes per second, the smallest of all
// windows that are open; 0 means unbounded. now carries the machine's time zone.
func (p Policy) ThrottleAt(now time.Time) int64 {
	var limit int64
	for _, w := range p.Throttle {
		if w.open(now) && (limit == 0 || w.BytesPerSecond < limit) {
			limit = w.BytesPerSecond
		}
	}
	return limit
}

// Check says what is wrong with the window, if anything is.
func (w Window) Check() error {
	if _, err := minutes(w.From); err != nil {
		return err
	}
	if _, err := minutes(w.To); err != nil {
		return err
	}
	if w.BytesPerSecond <= 0 {
		return fmt.Errorf("a throttle window needs a bound above 0 bytes a second, not %d", w.BytesPerSecond)
	}
	for _, d := range w.Days {
		if !slices.Contains(weekdays, d) {
			return fmt.Errorf("%q is not a day: want %s", d, strings.Join(weekdays, ", "))
		}
	}
	return nil
}

func (w Window) open(now time.Time) bool {
	from, err := minutes(w.From)
	if err != nil {
		return false
	}
	to, err := minutes(w.To)
	if err != nil {
		return false
	}
	at := now.Hour()*60 + now.Minute()
	switch {
	case from == to:
		return w.onDay(now)
	case from < to:
		return at >= from && at < to && w.onDay(now)
	case at >= from:
		return w.onDay(now)
	default: // after midnight: it began the day before
		return at < to && w.onDay(now.AddDate(0, 0, -1))
	}
}

func (w Window) onDay(day time.Time) bool {
	return len(w.Days) == 0 || slices.Contains(w.Days, weekdays[day.Weekday()])
}

func minutes(hhmm string) (int, error) {
	t, err := time.Parse("15:04", hhmm)
	if err != nil {
		return 0, fmt.Errorf("%q is not a time of day: want HH:MM", hhmm)
	}
	return t.Hour()*60 + t.Minute(), nil
}
