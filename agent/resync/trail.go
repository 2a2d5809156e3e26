package resync

import "sync"

// Trail keeps the cursors of base frames that are not spooled yet, so that a job that
// is cut goes on from the newest one it may use. The zero Trail is ready; it is safe
// for concurrent use.
type Trail struct {
	mu      sync.Mutex
	usable  Cursor
	spooled uint64
	waiting []Cursor // ascending by frame, one per frame
}

// Note remembers a cursor: those given to Sink.SendBase, before the frame leaves, and
// those in Progress. Cursors of the same or a later frame are forgotten: they are of
// a run that was cut, and its frames with these numbers are replaced.
func (t *Trail) Note(c Cursor) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.waiting)
	for n > 0 && t.waiting[n-1].Frame >= c.Frame {
		n--
	}
	t.waiting = append(t.waiting[:n], c)
	t.settle()
}

// Spooled says that base frames up to n are on the relay's stable storage, and
// returns the cursor to save: the job can go on from it, with FirstFrame n+1.
func (t *Trail) Spooled(n uint64) Cursor {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spooled = max(t.spooled, n)
	t.settle()
	return t.usable
}

func (t *Trail) settle() {
	for len(t.waiting) > 0 && t.waiting[0].Frame <= t.spooled {
		t.usable, t.waiting = t.waiting[0], t.waiting[1:]
	}
}
