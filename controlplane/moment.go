package main

import (
	"fmt"
	"strings"
	"time"
)

// momentHelp says how moments are written.
const momentHelp = `Moments are written as 2026-11-23T18:04:05.5Z (RFC 3339), "2026-11-23 18:04:05" or
18:04:05 (today), the latter two in local time, or as an age such as 90s or 2h.`

// parseMoment reads a moment as momentHelp says.
func parseMoment(s string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04"} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.Parse(layout, s); err == nil {
			return time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), now.Location()), nil
		}
	}
	if d, err := time.ParseDuration(strings.TrimPrefix(s, "-")); err == nil {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("%q is not a moment; %s", s, momentHelp)
}

// pointSpec turns a moment into the form that the API takes, and leaves every other
// way to name a point as it is.
func pointSpec(s string, now time.Time) string {
	if t, err := parseMoment(s, now); err == nil {
		return t.UTC().Format(time.RFC3339Nano)
	}
	return s
}
