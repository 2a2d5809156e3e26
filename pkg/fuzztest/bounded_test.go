package fuzztest

import (
	"runtime"
	"testing"
)

// failing takes what a test would fail with.
type failing struct {
	testing.TB
	failed bool
}

func (f *failing) Helper()               {}
func (f *failing) Fatalf(string, ...any) { f.failed = true }

var sink []byte

func TestBoundedSeesWhatIsTaken(t *testing.T) {
	for taken, wantFailure := range map[int]bool{0: false, 1 << 20: false, 3 << 20: true} {
		f := &failing{TB: t}
		Bounded(f, 2<<20, func() { sink = make([]byte, taken) })
		if f.failed != wantFailure {
			t.Errorf("%d bytes against a limit of %d: failed is %v", taken, 2<<20, f.failed)
		}
	}
}

// TestBoundedForgivesOthers: what was allocated beside the decode once is not its own.
func TestBoundedForgivesOthers(t *testing.T) {
	f, first := &failing{TB: t}, true
	Bounded(f, 0, func() {
		if first {
			sink = make([]byte, 8<<20)
		}
		first = false
	})
	if f.failed {
		t.Error("one large allocation of somebody else counted")
	}
	runtime.KeepAlive(sink)
}
