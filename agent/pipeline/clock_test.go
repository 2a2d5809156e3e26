package pipeline

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
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

// TestAFrameOverAClockSetBack: an agent that was away takes up records of before and
// after. No later write may be older than the frame's time by the clock that goes on, or
// who asks for that moment gets the future (found by the simulation, seed 32501).
func TestAFrameOverAClockSetBack(t *testing.T) {
	before := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	after := before.Add(-4 * time.Second) // read later
	for name, c := range map[string]struct{ seen, now, want time.Time }{
		"since nothing was seen":         {time.Time{}, after.Add(time.Second), after},
		"since all was seen":             {before.Add(-time.Second), after.Add(time.Second), after},
		"and seen again":                 {after.Add(time.Second), after.Add(time.Second), after.Add(time.Second)},
		"long ago: the clock caught up":  {before.Add(time.Second), before.Add(2 * time.Second), before.Add(time.Second)},
		"a record a little out of order": {time.Time{}, before, before},
	} {
		t.Run(name, func(t *testing.T) {
			store := &kept{}
			w := newWriter(block.MachineID{1}, store)
			w.resume(block.Position{Epoch: 1, Seq: 1}, 0, c.now)
			second := after
			if c.want.Equal(before) {
				second = before.Add(-maxDisorder / 2)
			}
			for i, at := range []time.Time{before, second} {
				r := capture.Record{Disk: block.DiskIDFromName("a"), Op: frame.OpZero, At: at, Extent: block.Extent{Off: int64(i) * 4096, Len: 4096}}
				if err := w.add(r, c.now); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.close(c.now, c.seen, frame.CompressNever); err != nil {
				t.Fatal(err)
			}
			if !store.Closed.Equal(c.want) {
				t.Errorf("closed at %v, want %v", store.Closed, c.want)
			}
		})
	}
}

// kept is a store of the last frame's header.
type kept struct{ frame.Header }

func (k *kept) Append(raw []byte, _ uint64) (err error) {
	k.Header, err = frame.ParseHeader(raw)
	return err
}
