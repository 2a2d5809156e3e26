package relay

import "github.com/understudy-dr/understudy/pkg/wire"

// window is how many bytes a channel may have in flight now. It is the smaller of
//
//   - the configured window,
//   - what the machine may still have in the spool: its log and its bases are counted
//     apart, so that neither can lock the other out,
//   - half of the channel's fair share of the spool's free space. Half, because
//     credit that was granted cannot be taken back when others come. A base sees
//     three quarters of the space only: a copy must not cost the log its room.
//
// Less than this all together is never exceeded by more than a frame a channel, and
// the spool's own limit catches those: it stops reading, which nobody is cut for.
func (s *Server) window(m *machine, ch wire.Channel) int64 {
	u := s.spool.Usage()
	if u.Failing {
		return 0
	}
	free := u.Free - s.conf.Segment/2
	if ch == wire.Base {
		free -= u.Limit / 4
	}
	m.mu.Lock()
	mine := s.conf.PerMachine - m.logBytes
	if ch == wire.Base {
		mine = s.conf.PerMachine - m.baseBytes
	}
	m.mu.Unlock()
	s.mu.Lock()
	share := free / int64(2*max(1, len(s.channels)))
	s.mu.Unlock()
	return max(0, min(s.conf.Window, mine, share))
}

// grant raises a channel's credit as far as its window reaches. A channel without
// any is remembered, to be fed when room comes back.
func (s *Server) grant(c *channel) uint64 {
	w := s.window(c.m, c.kind)
	c.mu.Lock()
	c.granted = max(c.granted, c.received+uint64(w))
	granted, starving := c.granted, c.granted <= c.received
	c.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if starving {
		s.starved[c] = struct{}{}
	} else {
		delete(s.starved, c)
	}
	return granted
}

// feed has every channel that waits for credit look again.
func (s *Server) feed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.starved {
		c.wake()
	}
}
