package pipeline

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestBarriersAreSharedButNeverLate: a caller's barrier begins after its call, and those
// who come while one is under way share the next.
func TestBarriersAreSharedButNeverLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun atomic.Int64 // time of the newest barrier's begin
		var count atomic.Int64
		b := newBarriers(t.Context(), func(context.Context) error {
			begun.Store(time.Now().UnixNano())
			count.Add(1)
			time.Sleep(10 * time.Millisecond)
			return nil
		})
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				called := time.Now().UnixNano()
				if err := b.pass(t.Context()); err != nil {
					t.Error(err)
				}
				if begun.Load() < called {
					t.Errorf("caller %d passed a barrier that began before it called", i)
				}
			})
		}
		all.Wait()
		if n := count.Load(); n > 7 {
			t.Errorf("%d barriers of 10 ms for 50 callers within 50 ms", n)
		}
	})
}
