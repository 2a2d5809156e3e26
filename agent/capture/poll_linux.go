package capture

import (
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/agent/capture/bpf"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// recordMore is the flag of a record whose bio goes on in a later one.
const recordMore = 1

// openBios counts the writes of which a part has been delivered and a part has
// not. A CPU does one at a time.
type openBios struct {
	cpus [1024]bool
	n    int
}

func (o *openBios) see(cpu uint32, more bool) {
	if at := &o.cpus[cpu%uint32(len(o.cpus))]; *at != more {
		*at = more
		if more {
			o.n++
		} else {
			o.n--
		}
	}
}

func (s *source) Poll(fn func(Record) (taken bool)) (n int, lost bool, err error) {
	s.consume.Lock()
	defer s.consume.Unlock()
	if s.ring == nil {
		return 0, false, ErrClosed
	}
	stretch := s.armed()
	if stretch == 0 {
		return 0, false, nil
	}
	// In this order. A write depends on nothing that comes later: what was lost
	// before a record before end, was lost before end was read.
	broken := s.broken()
	end := s.ring.producer()
	if pending, err := s.checkMisses(); err != nil || pending {
		s.ring.behind = true
		return 0, false, err
	}
	reserved := end
	defer func() { s.ring.behind = s.ring.at < reserved }()
	end, cut := min(end, s.cut()), s.cut() != ^uint64(0)
	boot := bootTime(time.Now, bootClock)
	for {
		raw, after := s.ring.next(end)
		if raw == nil {
			// Reserved but not complete: perhaps more of this stretch.
			return n, (broken && s.ring.at >= end) || cut && s.ring.at >= s.cut(), nil
		}
		h, err := header(raw)
		if err != nil {
			return n, false, err
		}
		if h.Lost != stretch {
			return n, true, nil
		}
		r, ok, err := s.record(h, raw, after, boot)
		if err != nil {
			return n, false, err
		}
		if ok {
			was := s.open
			s.open.see(h.Cpu, h.Flags&recordMore != 0)
			r.More = s.open.n > 0
			if !fn(r) {
				s.open = was
				return n, false, nil
			}
			n++
		}
		s.ring.at = after
	}
}

// record is what the ring's bytes say; false for a disk that is no longer tracked.
func (s *source) record(h *bpf.CaptureRecord, raw []byte, after uint64, boot time.Time) (Record, bool, error) {
	t := s.slots.Load()[h.Slot%maxDisks]
	if t == nil {
		return Record{}, false, nil
	}
	r := Record{
		Disk:   t.ID,
		Op:     frame.Op(h.Op),
		Extent: block.Extent{Off: int64(h.Sector) * block.SectorSize, Len: int64(h.Bytes)},
		At:     boot.Add(time.Duration(h.Time)),
		Pos:    after,
	}
	if r.Op == frame.OpWrite {
		if uint64(len(raw)) < recordHeader+uint64(h.Bytes) {
			return Record{}, false, fmt.Errorf("capture: a write of %d bytes with %d of data in the ring: not written by these programs", h.Bytes, len(raw))
		}
		r.Data = raw[recordHeader:][:h.Bytes:h.Bytes]
	}
	return r, true, nil
}

func (s *source) Position() uint64 {
	s.consume.Lock()
	defer s.consume.Unlock()
	if s.ring == nil {
		return 0
	}
	return s.ring.consumer()
}

func (s *source) Polled() uint64 {
	s.consume.Lock()
	defer s.consume.Unlock()
	if s.ring == nil {
		return 0
	}
	return s.ring.at
}

func (s *source) Behind() bool {
	s.consume.Lock()
	defer s.consume.Unlock()
	return s.ring != nil && s.ring.behind
}

func (s *source) Advance(pos uint64) error {
	s.consume.Lock()
	defer s.consume.Unlock()
	if s.ring == nil {
		return ErrClosed
	}
	from, to := s.ring.consumer(), s.ring.producer()
	if pos < from || pos > to || pos&7 != 0 {
		return fmt.Errorf("capture: advance to ring position %d: not between %d, where it stands, and %d, where it ends", pos, from, to)
	}
	s.ring.free(pos)
	s.ring.at = max(s.ring.at, pos)
	return nil
}

func (s *source) Rewind() {
	s.consume.Lock()
	defer s.consume.Unlock()
	if s.ring != nil {
		s.ring.at = s.ring.consumer()
		s.open = openBios{}
	}
}
