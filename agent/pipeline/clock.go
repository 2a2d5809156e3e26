package pipeline

import (
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
)

// maxDrift is how far the wall clock may move against the monotonic one between two
// looks before it counts as a jump: time services slew by less, steps are larger.
const maxDrift = time.Second

// clock watches the wall clock. Frames carry wall-clock time as it is, also after a
// jump: the order of a log is its sequence numbers, never its times. What a jump does
// to the times of recovery points is said to the operator.
type clock struct {
	wall time.Time
	mono time.Time
}

// check compares how far both clocks went since the last look. now has a monotonic
// reading unless a test took it away.
func (c *clock) check(now time.Time, event func(desired.Event)) {
	wall := now.Round(0)
	if !c.wall.IsZero() {
		went, should := wall.Sub(c.wall), now.Sub(c.mono)
		if jump := went - should; jump.Abs() > maxDrift {
			event(jumped(jump, wall))
		}
	}
	c.wall, c.mono = wall, now
}

func jumped(by time.Duration, to time.Time) desired.Event {
	direction := "forward"
	if by < 0 {
		direction = "back"
	}
	return desired.Event{
		Time: to, Type: "clock", Severity: desired.Warning,
		Message: fmt.Sprintf("this machine's clock jumped %s by %s, to %s: recovery points from here on carry the new time", direction, by.Abs().Round(time.Millisecond), to.UTC().Format(time.RFC3339)),
		Remedy:  "nothing is lost and no resync is needed. Near the jump choose points by their id, not by their time",
	}
}
