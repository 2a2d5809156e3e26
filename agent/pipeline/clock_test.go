package pipeline

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
)

// TestClockJumpsAreNamed: a jump in either direction is an event, the passing of time
// is none. Inside the bubble the wall clock follows the monotonic one; adding to the
// wall reading alone is what a step of the system's clock looks like.
func TestClockJumpsAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []desired.Event
		var c clock
		look := func() { c.check(time.Now(), func(e desired.Event) { events = append(events, e) }) }
		look()
		time.Sleep(48 * time.Hour)
		look()
		if len(events) != 0 {
			t.Fatalf("two days of sleep made %v", events)
		}
		for _, jump := range []time.Duration{time.Hour, -time.Hour} {
			c.wall = c.wall.Add(-jump)
			look()
		}
		if len(events) != 2 || !strings.Contains(events[0].Message, "forward by 1h") || !strings.Contains(events[1].Message, "back by 1h") {
			t.Fatalf("jumps of an hour both ways made %v", events)
		}
	})
}
