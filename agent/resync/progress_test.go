package resync

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// TestEstimate: at a steady pace the estimate is right at once, a pause moves it
// little, and what an earlier run did counts as done but not as speed.
func TestEstimate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeter(Cursor{})
		m.plan(1000<<20, 200<<20)
		step := func(mb int64) Progress {
			time.Sleep(time.Second)
			m.examined(&chunk{span: block.Extent{Len: mb << 20}, want: []block.Extent{{Len: mb << 20}}})
			return m.now()
		}
		p := step(10)
		if p.Rate != 10<<20 || p.Done != 210<<20 || p.Left != 79*time.Second {
			t.Errorf("after a second: %+v", p)
		}
		for range 29 {
			p = step(10)
		}
		if p.Left != 50*time.Second {
			t.Errorf("after half a minute %v is left, not 50 s", p.Left)
		}
		if p = step(0); p.Left < 50*time.Second || p.Left > 56*time.Second {
			t.Errorf("a pause of a second made it %v", p.Left)
		}
		for range 60 {
			p = step(5)
		}
		if p.Rate > 6<<20 {
			t.Errorf("a minute at half the speed still counts as %d", p.Rate)
		}
	})
}

func TestReportOnceASecondAndAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		stop := newMeter(Cursor{}).report(func(Progress) { n++ })
		time.Sleep(3500 * time.Millisecond)
		synctest.Wait()
		if n != 3 {
			t.Errorf("%d reports in 3.5 s", n)
		}
		if stop(); n != 4 {
			t.Errorf("%d reports after the end", n)
		}
	})
}

func TestTrail(t *testing.T) {
	var tr Trail
	at := func(n uint64, off int64) Cursor { return Cursor{Frame: n, Off: off} }
	tr.Note(at(0, 50)) // nothing needed sending so far
	if c := tr.Spooled(0); c.Off != 50 {
		t.Errorf("cursor without frames: %+v", c)
	}
	for n := range uint64(5) {
		tr.Note(at(n+1, int64(n+1)*100))
	}
	tr.Note(at(5, 550)) // read on, nothing to send
	if c := tr.Spooled(3); c != at(3, 300) {
		t.Errorf("3 spooled: %+v", c)
	}
	if c := tr.Spooled(2); c != at(3, 300) {
		t.Errorf("an acknowledgement went back: %+v", c)
	}
	tr.Note(at(4, 333)) // a new run after a cut makes frame 4 anew
	if c := tr.Spooled(5); c != at(4, 333) {
		t.Errorf("5 spooled, frame 5 of the first run is void: %+v", c)
	}
}
