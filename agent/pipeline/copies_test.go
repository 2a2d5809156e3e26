package pipeline

import (
	"testing"
	"testing/synctest"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// TestNoCopyStartsInDoubt: a journal that is full just when the base-complete mark is due
// ends the epoch. A run of its copies, none of which is left, must not begin then: it
// would declare the next epoch's base complete.
func TestNoCopyStartsInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		err := w.p.call(t.Context(), func() error {
			w.p.raise(doubt{reason: frame.ReasonJournalOverflow})
			w.p.phase = desired.PhaseBase // as in the round in which the doubt arose
			w.p.startCopies(t.Context())
			if w.p.copying != nil {
				t.Error("copies of an epoch that is over have begun")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		w.settled()
		w.kill()
	})
}
