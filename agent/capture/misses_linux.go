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
	misses, excuses, err := s.misses()
	if err != nil {
		return false, err
	}
	more, excused := misses-atomic.LoadUint64(&s.state.Misses), excuses-s.state.Excused
	if more == 0 || more == excused && atomic.LoadUint64(&s.state.Others) == 0 {
		s.take(misses, excuses)
		return false, nil
	}
	if s.programs["rescue"] != nil {
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
	s.take(misses, excuses)
	s.log.Warn("the kernel skipped the capture program", "skipped", int64(more), "excused", int64(excused),
		"rescued", atomic.LoadUint64(&s.state.Rescued), "untold", atomic.LoadUint64(&s.state.Untold),
		"splits", atomic.LoadUint64(&s.state.Splits), "rests", atomic.LoadUint64(&s.state.Rests), "others", atomic.LoadUint64(&s.state.Others))
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

// take makes these counts the ones that are known.
func (s *source) take(misses, excuses uint64) {
	atomic.StoreUint64(&s.state.Misses, misses)
	s.state.Excused = excuses
	s.uneven = time.Time{}
}

// misses is how often the kernel skipped all programs that capture a bio, and how often
// that is excused since there was nothing to capture. Where programs stand in for each
// other (bpf/rescue.h) both are differences of counts that are not read at once, and off
// for a moment, in either direction.
func (s *source) misses() (misses, excuses uint64, err error) {
	submit, err1 := s.skipped("submit")
	remap, err2 := s.skipped("remap")
	split, err3 := s.skipped("split")
	if err := errors.Join(err1, err2, err3); err != nil {
		return 0, 0, err
	}
	misses = submit + remap + atomic.LoadUint64(&s.state.Untold) - atomic.LoadUint64(&s.state.Rescued)
	return misses, split + atomic.LoadUint64(&s.state.Splits) - atomic.LoadUint64(&s.state.Rests), nil
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
