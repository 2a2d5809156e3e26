package pipeline

import (
	"encoding/json"
	"testing"

	"github.com/understudy-dr/understudy/agent/journal"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzRecall reads the pipeline's own memory out of a journal's state. Limit: 256
// times the input (two letters can be an element of a list) and 64 KiB. What is
// recalled names a copy that is there, and comes back from its own JSON.
func FuzzRecall(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"machine":"000102030405060708090a0b0c0d0e0f","epoch":3,"reason":"initial","began":7,"copies":[{"method":"hash","disks":["000102030405060708090a0b0c0d0e0f"]}],"copy":1}`,
		`{"copy":-1}`, `{"copy":5,"copies":[{}]}`, `{"began":9,"complete":3}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := journal.Recovered{Found: true, State: journal.State{Log: b}}
		fuzztest.Bounded(t, 256*len(b)+64<<10, func() { _, _ = Recall(r) })
		s, err := Recall(r)
		if err != nil {
			return
		}
		if s.Copy < 0 || s.Copy > len(s.Copies) {
			t.Errorf("copy %d of %d was recalled", s.Copy, len(s.Copies))
		}
		if b, err = json.Marshal(s); err != nil {
			return // a time past the year 9999 can be read but not written
		}
		if _, err := Recall(journal.Recovered{Found: true, State: journal.State{Log: b}}); err != nil && !s.Machine.IsZero() {
			t.Errorf("%s does not come back: %v", b, err)
		}
	})
}
