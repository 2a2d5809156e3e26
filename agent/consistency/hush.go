package consistency

import (
	"fmt"
	"io"
	"sync"
)

// maxHushed bounds what a log keeps in memory.
const maxHushed = 1 << 20

// Hush is where a log is written to that may lie on a frozen file system: held, it keeps
// lines in memory. One writer that waits for the disk would stop all that log.
type Hush struct {
	mu    sync.Mutex
	to    io.Writer
	held  bool
	lines []byte
	lost  int // lines that had no room
}

// NewHush writes to w while it is not held.
func NewHush(w io.Writer) *Hush { return &Hush{to: w} }

// Write implements io.Writer.
func (h *Hush) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !h.held:
		return h.to.Write(b)
	case len(h.lines)+len(b) > maxHushed:
		h.lost++
	default:
		h.lines = append(h.lines, b...)
	}
	return len(b), nil
}

// Hold keeps lines in memory from its return on.
func (h *Hush) Hold() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = true
}

// Release writes what was kept.
func (h *Hush) Release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = false
	if h.lost > 0 {
		h.lines = fmt.Appendf(h.lines, "%d lines of this log had no room while its disk was frozen\n", h.lost)
	}
	if len(h.lines) > 0 {
		_, _ = h.to.Write(h.lines) // as a log does: there is nobody to tell
	}
	h.lines, h.lost = nil, 0
}
