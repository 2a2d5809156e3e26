package pipeline

import (
	"errors"
	"maps"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// publishEvery is how fresh the status is that reports and metrics show.
const publishEvery = 500 * time.Millisecond

// Status is how the protection stands, as of at most publishEvery ago; nil while
// nothing is protected.
func (p *Pipeline) Status() *desired.Protection { return p.status.Load() }

// Position is behind the newest frame of the log.
func (p *Pipeline) Position() block.Position {
	if at := p.w.shown.Load(); at != nil {
		return *at
	}
	return block.Position{}
}

// Epochs counts the epochs begun since the agent started, by reason.
func (p *Pipeline) Epochs() map[frame.Reason]int {
	p.epochsMu.Lock()
	defer p.epochsMu.Unlock()
	return maps.Clone(p.epochs)
}

func (p *Pipeline) countEpoch(r frame.Reason) {
	p.epochsMu.Lock()
	defer p.epochsMu.Unlock()
	p.epochs[r]++
}

// publish makes the status from the facts. An agent that has just started and was not told
// yet what is wanted says which epoch it takes up: the kernel has gone on with it.
func (p *Pipeline) publish(now time.Time) {
	if len(p.disks) == 0 && (p.State.Epoch == 0 || p.wished.Disks != nil) {
		p.status.Store(nil)
		return
	}
	s := &desired.Protection{
		Phase: p.phase, Epoch: p.State.Epoch, Since: p.State.Since, Reason: string(p.State.Reason), Resync: p.State.Resync,
		LastSeq: p.w.at.Seq, Spooled: p.spooled, Committed: p.committed,
		Captured: p.captured, Churn: p.rate.perSecond(now), Dirty: p.dirtyBytes(),
	}
	for _, id := range p.wished.Disks {
		if d := p.disks[id]; d != nil {
			s.Disks = append(s.Disks, p.diskState(id, d))
		}
	}
	if p.doubt != nil {
		s.Reason = string(p.doubt.reason)
		s.Problem = p.waitingFor()
	}
	if p.copying != nil {
		s.Base = p.copying.shown.Load()
	}
	s.Verify = p.verifyState(now)
	if last := p.State.Point; !last.Time.IsZero() {
		s.Point = &last
	}
	s.Scan = p.scanState()
	p.gauges(s)
	p.status.Store(s)
}

func (p *Pipeline) diskState(id block.DiskID, d *disk) desired.DiskState {
	if d.problem == nil {
		return desired.DiskState{ID: id, Phase: p.phase}
	}
	why, ok := errors.AsType[*problem.Problem](d.problem)
	if !ok {
		why = problem.New(problem.Unavailable, "", "disk %s (%s): %v", d.Name, d.Path, d.problem)
	}
	return desired.DiskState{ID: id, Phase: desired.PhaseFailed, Problem: why}
}

// waitingFor says what keeps the next epoch from beginning.
func (p *Pipeline) waitingFor() *problem.Problem {
	switch {
	case !p.known:
		return problem.New(problem.Unavailable, "look at the relay and at the network between", "%s; waiting for the relay", p.doubt)
	case p.fill() > resumeBelow:
		return problem.New(problem.Unavailable, "look at the relay's spool and at the way to it", "%s; waiting for the relay to take the frames in the journal", p.doubt)
	case p.Scan && p.scanEvery() == 0:
		return p.noScans()
	default:
		return nil
	}
}

func (p *Pipeline) dirtyBytes() (n int64) {
	for _, id := range p.tracked() {
		if d, err := p.Source.Dirty(id); err == nil {
			n += d.Bytes()
		}
	}
	return n
}

// event hands an event to whoever reports, with its time.
func (p *Pipeline) event(e desired.Event) {
	if e.Time.IsZero() {
		e.Time = p.Now()
	}
	p.Events(e)
}

// rate averages the captured bytes over the last seconds.
type rate struct {
	bytes   int64 // since from
	from    time.Time
	last    float64
	checked time.Time
}

func (r *rate) due(now time.Time) bool {
	if now.Sub(r.checked).Abs() < publishEvery {
		return false
	}
	r.checked = now
	return true
}

func (r *rate) add(n int64) { r.bytes += n }

func (r *rate) perSecond(now time.Time) int64 {
	if took := now.Sub(r.from); took > time.Second || took < 0 {
		r.last = float64(r.bytes) / max(took.Seconds(), 1)
		r.bytes, r.from = 0, now
	}
	return int64(r.last)
}
