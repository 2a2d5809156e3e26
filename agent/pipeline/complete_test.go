package pipeline

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/journal"
)

// TestMarkThatWasOnlyIntended: an agent died between writing down where the base-complete
// mark will stand and storing it. The next one stores something else there and dies, too;
// the third must not take that for the mark.
func TestMarkThatWasOnlyIntended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		err := w.p.call(t.Context(), func() error {
			w.p.State.Complete = w.p.w.at.Seq + 1
			return w.p.save()
		})
		if err != nil {
			t.Fatal(err)
		}
		w.kill()
		w.start(capture.Resume{Intact: true})
		time.Sleep(time.Millisecond)
		s, err := Recall(journal.Recovered{State: w.j.State(), Found: true})
		if err != nil || s.Complete != 0 {
			t.Errorf("the state that the next agent finds says that the mark stands at %d, %v", s.Complete, err)
		}
		w.settled()
		w.kill()
	})
}
