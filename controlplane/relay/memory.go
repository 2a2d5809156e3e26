package relay

import (
	"math/bits"
	"sync"
)

const (
	// maxRecycled is the largest buffer kept for reuse: one huge frame must not stay in
	// memory for ever.
	maxRecycled = 4 << 20
	// maxSpare bounds what is kept for reuse all together: what an object gives back when
	// it is committed is taken by the frames that come until the next one.
	maxSpare = 32 << 20
	// minSpare is the smallest buffer worth it. A tick is made anew.
	minSpare = 4 << 10
)

// spares are buffers for frames on their way to the spool, by size: bounded, and not the
// garbage collector's to drop, as those of a sync.Pool are between two objects.
type spares struct {
	mu    sync.Mutex
	bytes int
	lists [32][][]byte // by the number of bits of their capacity
}

// take gives memory for n bytes that is not much more, or nil.
func (s *spares) take(n int) []byte {
	if n < minSpare {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for class := bits.Len(uint(n)); class <= min(bits.Len(uint(n))+1, len(s.lists)-1); class++ {
		list := s.lists[class]
		if last := len(list) - 1; last >= 0 && cap(list[last]) >= n {
			b := list[last]
			list[last], s.lists[class] = nil, list[:last]
			s.bytes -= cap(b)
			return b[:0]
		}
	}
	return nil
}

// give keeps b for later, or leaves it to the garbage collector.
func (s *spares) give(b []byte) {
	if cap(b) < minSpare || cap(b) > maxRecycled {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes+cap(b) > maxSpare {
		return
	}
	class := bits.Len(uint(cap(b)))
	s.lists[class] = append(s.lists[class], b)
	s.bytes += cap(b)
}
