package capture

import (
	"testing"
	"time"
)

// TestDozeEndsWithTheFirstRecord: whoever leaves an empty ring alone is woken by the next
// write, each time anew, also in another process's hold on it; while the ring holds
// something there is no dozing.
func TestDozeEndsWithTheFirstRecord(t *testing.T) {
	d := newLoop(t, memory(t), 4<<20)
	s := tracking(t, 1<<20, d)
	r := newReplica(d)
	for i := range int64(20) {
		woken := s.Doze()
		if woken == nil {
			t.Fatalf("round %d: no doze before an empty ring", i)
		}
		select {
		case <-woken:
			t.Fatalf("round %d: woken by nothing", i)
		case <-time.After(time.Duration(i%3) * 10 * time.Millisecond):
		}
		writeAt(t, d, i*4096, 4096)
		select {
		case <-woken:
		case <-time.After(10 * time.Second):
			t.Fatalf("round %d: a write into an empty ring woke nobody", i)
		}
		if s.Doze() != nil {
			t.Fatalf("round %d: dozing with a record in the ring", i)
		}
		if i%2 == 1 {
			writeAt(t, d, i*4096, 4096)
		}
		if r.drain(t, s) {
			t.Fatal("lost a write")
		}
	}
	r.equal(t, d)
}
