package capture

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
)

// rescueWithin is how long a write that the kprobe missed may take to the tracepoint
// right behind it: a task that is preempted between the two waits for its turn.
const rescueWithin = time.Second

// checkMisses makes a loss of every time that the kernel skipped the programs. pending: a
// write that one of them missed may still be on its way to the other, and until that is
// known nothing may be delivered. consume is held.
func (s *source) checkMisses() (pending bool, err error) {
	misses, err := s.misses()
	if err != nil || misses == atomic.LoadUint64(&s.state.Misses) {
		s.uneven = time.Time{}
		return false, err
	}
	if s.programs["rescue"] != nil && int64(misses-atomic.LoadUint64(&s.state.Misses)) > 0 {
		if s.uneven.IsZero() {
			s.uneven = time.Now()
		}
		if time.Since(s.uneven) < rescueWithin {
			return true, nil
		}
	}
	// Which write was missed is not known: it may lie before anything not yet
	// delivered, and on any disk.
	atomic.StoreUint64(&s.state.Cut, min(s.cut(), s.ring.at))
	var all []uint32
	for slot, t := range s.slots.Load() {
		if t != nil {
			all = append(all, uint32(slot))
		}
	}
	s.lose(causeRecursion, all...)
	atomic.StoreUint64(&s.state.Misses, misses)
	s.uneven = time.Time{}
	s.log.Warn("the kernel skipped the capture program", "misses", int64(misses), "rescued", atomic.LoadUint64(&s.state.Rescued),
		"untold", atomic.LoadUint64(&s.state.Untold), "rests", atomic.LoadUint64(&s.state.Rests), "others", atomic.LoadUint64(&s.state.Others))
	return false, nil
}

// settleMisses is checkMisses that waits until it is known. consume is held.
func (s *source) settleMisses() error {
	for {
		pending, err := s.checkMisses()
		if !pending {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// misses is how often the kernel skipped all programs that capture a bio. Where one
// stands in for another (bpf/rescue.h) that is a difference of counts which are not read
// at once. What was rescued is read first, so that it is never more than was skipped: the
// difference can be too great for a moment, and so hides nothing. If it is too small, the
// counts are wrong, and that is a loss at once.
func (s *source) misses() (uint64, error) {
	rescued, rests := atomic.LoadUint64(&s.state.Rescued), atomic.LoadUint64(&s.state.Rests)
	submit, err1 := s.skipped("submit")
	remap, err2 := s.skipped("remap")
	if atomic.LoadUint64(&s.state.Others) != 0 {
		rests = 0
	}
	return submit + remap + atomic.LoadUint64(&s.state.Untold) - rescued - rests, errors.Join(err1, err2)
}

// skipped is how often the kernel skipped one program, if there is one in this role.
func (s *source) skipped(role string) (uint64, error) {
	p := s.programs[role]
	if p == nil {
		return 0, nil
	}
	stats, err := p.Stats()
	if err != nil {
		return 0, fmt.Errorf("reading what the kernel skipped of %s: %w", role, err)
	}
	n := stats.RecursionMisses
	if l := s.links[role]; l != nil && p.Type() == ebpf.Kprobe {
		// A kprobe that is hit while another is being handled does not come to its program.
		if info, err := l.Info(); err == nil && info.PerfEvent() != nil {
			if k := info.PerfEvent().Kprobe(); k != nil {
				n += k.Missed
			}
		}
	}
	return n, nil
}
