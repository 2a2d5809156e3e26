package pipeline

import (
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/journal"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// take moves records from the ring into the log.
func (p *Pipeline) take(now time.Time) (bool, error) {
	var failed error
	refused := false
	n, lost, err := p.Source.Poll(func(r capture.Record) bool {
		if refused = p.w.full(len(r.Data)) || p.w.ripe() && !p.more; refused {
			return false
		}
		p.more = r.More
		p.note(r)
		p.captured += int64(len(r.Data))
		p.rate.add(int64(len(r.Data)))
		failed = p.w.add(r, now)
		return failed == nil
	})
	if err = errors.Join(err, failed); err != nil {
		return false, fmt.Errorf("pipeline: machine %s: reading the ring: %w", p.Machine, err)
	}
	behind := lost || p.Source.Behind()
	if !behind {
		p.seen = now
		p.drains++
	}
	if lost || p.w.due(now) && (!p.more || p.w.full(p.w.target)) {
		if err := p.closeFrame(now); err != nil || p.doubt != nil {
			return true, err
		}
	}
	if lost {
		p.raiseLoss()
		return true, nil
	}
	if n == 0 && !behind && !p.w.open() {
		p.w.ringPos = p.Source.Polled() // what was passed over was of no tracked disk
		return false, p.tick(now)
	}
	return refused || behind && n > 0, nil
}

// tick says that nothing was written, once that is due and proved.
func (p *Pipeline) tick(now time.Time) error {
	if p.w.tickDue(now) > 0 {
		return nil
	}
	if err := p.prove(); err != nil || p.doubt != nil {
		return err
	}
	return p.store(p.w.tick(now))
}

// prove raises a doubt if something was missed: a write that the hook did not see at all
// shows in no record, only in the counters.
func (p *Pipeline) prove() error {
	h, err := p.Source.Health()
	if err != nil {
		return fmt.Errorf("pipeline: machine %s: %w", p.Machine, err)
	}
	p.ring, p.pressed = h.RingBytes, h.RingUsed > h.RingBytes/8
	if r := h.Reason(); r != "" && r != capture.RingOverflow { // an overflow is told by Poll, at its place
		p.w.drop()
		p.raiseHealth(h)
	}
	return nil
}

// closeFrame stores what was gathered, after proof that nothing was missed meanwhile.
func (p *Pipeline) closeFrame(now time.Time) error {
	if err := p.prove(); err != nil || p.doubt != nil {
		return err
	}
	c := frame.CompressAuto
	if p.pressed { // behind the kernel: CPU is what is short; behind the relay, it may be the wire
		c = frame.CompressNever
	}
	return p.store(p.w.close(now, p.seen, c))
}

// store deals with the outcome of storing a frame.
func (p *Pipeline) store(err error) error {
	switch {
	case errors.Is(err, journal.ErrFull):
		p.w.drop()
		p.raise(doubt{reason: frame.ReasonJournalOverflow, detail: "memory and spill are both full of frames that the relay has not taken"})
		return nil
	case err != nil:
		return fmt.Errorf("pipeline: machine %s: storing a frame: %w", p.Machine, err)
	}
	p.gens.stored(p.w.ringPos, p.w.at.Seq)
	return p.Source.Advance(p.w.ringPos)
}

// flush stores what was gathered when the agent stops. What is not stored stays in
// the ring.
func (p *Pipeline) flush() error {
	if !p.capturing() || p.more || p.doubt != nil {
		return nil
	}
	return p.closeFrame(p.Now())
}
