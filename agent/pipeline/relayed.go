package pipeline

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/agent/resync"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// Welcome compares the relay's position with the log's and returns the sequence
// number behind which frames are to be sent. Five things can be:
//
//   - the relay's position lies within what the journal retains: go on behind it;
//   - the log knows no position (a new agent, or one that lost its memory): adopt it;
//   - the relay is ahead, or has other frames under the same numbers: somebody else wrote
//     this machine's log. Its position is adopted and everything is in doubt;
//   - the relay is behind what the journal retains: it lost frames it had
//     acknowledged. Its position is adopted; what is not in the vault is in doubt;
//   - the relay's position is of an epoch that the log had not reached or had left
//     there: what it has is adopted, and everything is in doubt.
func (p *Pipeline) Welcome(ctx context.Context, w wire.Welcome) (after block.Seq, err error) {
	return w.Spooled, p.call(ctx, func() error { return p.welcome(w) })
}

func (p *Pipeline) welcome(w wire.Welcome) error {
	base := baseline{}
	if w.BaseEpoch == p.State.Epoch {
		base.spooled = w.SpooledBase
	}
	p.rewindCopies(base)
	// Of an epoch that this agent knows nothing of, the relay may have the base and have
	// lost the log. Its frames must never meet those of another epoch of that number.
	p.heard = max(p.heard, w.Epoch, w.BaseEpoch)
	d := p.contradiction(w)
	if w.Epoch > 0 && (d != nil || len(p.State.Known) == 0) {
		p.State.Unsure = true // there is more of this machine than is remembered here
	}
	if d != nil {
		if err := p.adopt(w, d); err != nil {
			return err
		}
		if p.doubt != nil && p.doubt.reason == frame.ReasonInitial {
			p.doubt = nil // protection seemed to begin: the relay knows that it goes on
		}
		p.raise(*d)
	}
	p.known = true
	return p.acked(w.Spooled, w.Committed)
}

// contradiction is the doubt that the relay's position raises, nil if it continues
// the log.
func (p *Pipeline) contradiction(w wire.Welcome) *doubt {
	oldest := p.Journal.Stats().First
	switch {
	case p.w.at.Seq == 0 && w.Spooled == 0:
		return nil
	case p.damaged != nil:
		d := &doubt{reason: frame.ReasonJournalDamaged, detail: p.damaged.Error()}
		p.damaged = nil
		return d
	case p.w.at.Seq == 0, p.State.Epoch == 0: // of the log's frames something may be left without it
		return &doubt{reason: frame.ReasonUncleanStop, detail: "the agent has no memory of its log: the machine did not stop in order, or the journal was removed", whole: p.all()}
	case w.Spooled > p.w.at.Seq, w.Epoch > p.w.at.Epoch:
		return &doubt{
			reason: frame.ReasonIdentityConflict, whole: p.all(),
			detail: fmt.Sprintf("the relay has this machine's log up to %d.%d, the agent made it up to %s", w.Epoch, w.Spooled, p.w.at),
		}
	case p.foreign(w):
		return &doubt{
			reason: frame.ReasonIdentityConflict, whole: p.all(),
			detail: fmt.Sprintf("the relay has another history of this machine up to %d.%d than the agent, which made it up to %s: the machine was set back to a snapshot, or two have one identity", w.Epoch, w.Spooled, p.w.at),
		}
	case w.Spooled < p.committed:
		// The vault itself went back, and may hold none of what it had; or the relay speaks
		// of a time before another one went on, and it holds all of it.
		p.State.Settled, p.State.Unsure = nil, true
		return p.lost("the relay has the log up to %d, frames up to %d were in the vault", w.Spooled, p.committed)
	case oldest > 0 && w.Spooled+1 < oldest, oldest == 0 && w.Spooled < p.w.at.Seq:
		return p.lost("the relay has the log up to %d, frames up to %d were acknowledged as spooled", w.Spooled, p.spooled)
	case !p.continues(w):
		p.State.Settled, p.State.Unsure = nil, true
		d := p.lost("the relay has the log up to %d.%d, which is not of this agent's: another relay wrote there", w.Epoch, w.Spooled)
		d.whole = p.all()
		return d
	case p.owed(w) > p.base.spooled:
		return p.lost("the relay has %d base frames of epoch %d, %d were acknowledged as spooled", p.base.spooled, p.State.Epoch, p.owed(w))
	}
	return nil
}

// continues reports whether the relay's position is one of the log, and not only its
// number: where two relays take turns, one may have frames that the agent has given up. A
// relay may even have acknowledged the frame that it has not any more: the vault had
// another one there, of an agent that has lost its memory since, and the frames of this
// one were dropped. The epochs of both may have one number.
func (p *Pipeline) continues(w wire.Welcome) bool {
	if at, known := p.Journal.Closing(w.Spooled); known && w.Spooled == p.spooled && w.Closed.UnixNano() > 0 && !at.Equal(w.Closed) {
		return false
	}
	if w.Spooled >= p.State.Began {
		return w.Epoch == p.State.Epoch
	}
	over, cancel := context.WithCancel(context.Background())
	cancel() // what is there comes at once
	raw, err := p.Journal.Next(over, w.Spooled)
	if err != nil {
		return true // there is nothing to compare with
	}
	f, err := frame.Parse(raw)
	if err != nil {
		return true
	}
	if m, err := f.Mark(); err == nil && m.Type == frame.MarkEpochBegin {
		return f.Epoch > w.Epoch
	}
	return f.Epoch == w.Epoch
}

// owed is how many base frames of the epoch were spooled, as long as the vault may not
// have them: a relay that has fewer lost them, even if it lost nothing of the log.
func (p *Pipeline) owed(w wire.Welcome) uint64 {
	switch {
	case p.phase == desired.PhaseBase:
		return max(p.State.Cursor.Frame, p.State.Frames)
	case p.phase == desired.PhaseSteady && p.State.Complete > max(p.committed, w.Committed):
		return p.State.Frames
	default:
		return 0
	}
}

// foreign reports whether the relay's frames are not those of this log, though their
// numbers fit: what lies beyond the last acknowledgement must be a frame that the journal
// still holds, closed at the same moment, and of the epoch that the log was in there.
func (p *Pipeline) foreign(w wire.Welcome) bool {
	if p.doubt != nil && p.State.Began > p.w.at.Seq || w.Spooled < p.spooled {
		return false // the log goes on in a new epoch anyway; or frames were lost
	}
	if p.State.Began > 0 && w.Spooled >= p.State.Began && w.Epoch != p.State.Epoch {
		return true
	}
	if w.Spooled == p.spooled || w.Closed.UnixNano() <= 0 {
		return false
	}
	at, held := p.Journal.Closing(w.Spooled)
	return !held || !at.Equal(w.Closed)
}

func (p *Pipeline) lost(format string, args ...any) *doubt {
	return &doubt{reason: frame.ReasonRelayLostSpool, detail: fmt.Sprintf(format, args...)}
}

// adopt continues the log behind the relay's position, in an epoch above both. That
// the doubt must be settled there is written down as an epoch that has not begun: before
// the journal is reset, and of a number beyond both what it held and what it will hold,
// so that an agent which dies in between does not take the old epoch for whole.
func (p *Pipeline) adopt(w wire.Welcome, d *doubt) error {
	p.w.drop()
	beyond := max(p.w.at.Seq, w.Spooled) + 1
	p.w.at = block.Position{Epoch: max(w.Epoch, p.w.at.Epoch, p.State.Epoch), Seq: w.Spooled}
	p.spooled, p.committed = w.Spooled, w.Committed
	s := &p.State
	s.Epoch, s.Reason, s.Began, s.Complete = p.w.at.Epoch, d.reason, beyond, 0
	s.Copies, s.Copy, s.Cursor, s.Frames = nil, 0, resync.Cursor{}, 0
	s.suspect(d.reason, d.whole)
	if err := p.save(); err != nil {
		return err
	}
	p.Journal.Reset(w.Spooled, w.Closed)
	return nil
}

// Acked takes the log channel's acknowledgement.
func (p *Pipeline) Acked(ctx context.Context, spooled, committed block.Seq) {
	p.post(ctx, func() error { return p.acked(spooled, committed) })
}

func (p *Pipeline) acked(spooled, committed block.Seq) error {
	if spooled > p.spooled {
		p.spooled = spooled
		p.Journal.Release(spooled)
	}
	if committed > p.committed {
		p.committed = committed
		p.wake()
		if err := p.forget(); err != nil {
			return err
		}
	}
	return p.settle()
}

// forget lets the kernel forget blocks that are in the vault. That the vault had them
// is written down before: a vault that goes back must be noticed. While there is a doubt
// nothing is forgotten: what was lost may be marked among what is retained.
func (p *Pipeline) forget() error {
	if p.doubt != nil || !p.gens.forgettable(p.committed) {
		return nil
	}
	if err := p.save(); err != nil {
		return err
	}
	if err := p.gens.forget(); err != nil {
		return fmt.Errorf("pipeline: machine %s: forgetting committed blocks: %w", p.Machine, err)
	}
	return nil
}

// BaseAcked takes the base channel's acknowledgement.
func (p *Pipeline) BaseAcked(ctx context.Context, epoch block.Epoch, spooled uint64) {
	p.post(ctx, func() error {
		if epoch != p.State.Epoch || spooled <= p.base.spooled {
			return nil
		}
		p.base.spooled = spooled
		c := p.copying
		if c == nil {
			return nil
		}
		t := c.trail.Load()
		cursor := t.Spooled(spooled)
		if t.copy != p.State.Copy || p.Now().Sub(c.saved).Abs() < time.Second {
			return nil
		}
		c.saved = p.Now()
		return p.copied(c, t.copy, cursor)
	})
}

// waiter waits for the log to be committed up to seq.
type waiter struct {
	seq  block.Seq
	done chan struct{}
}

// waitCommitted returns when the vault has the log up to seq.
func (p *Pipeline) waitCommitted(ctx context.Context, seq block.Seq) error {
	w := waiter{seq: seq, done: make(chan struct{})}
	p.post(ctx, func() error {
		p.waiters = append(p.waiters, w)
		p.wake()
		return nil
	})
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Pipeline) wake() {
	p.waiters = slices.DeleteFunc(p.waiters, func(w waiter) bool {
		if w.seq > p.committed {
			return false
		}
		close(w.done)
		return true
	})
}

// Damaged tells that a frame can no longer be read from the journal, or is not there.
// The log goes on in a new epoch behind what the relay has, with its next Welcome.
func (p *Pipeline) Damaged(ctx context.Context, err error) {
	p.post(ctx, func() error { p.damaged = err; return nil })
}
