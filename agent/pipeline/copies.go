package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/resync"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// retryCopy is how long a failed copy waits: its cause is a disk, a relay or a vault
// that does not answer, none of which heals within a second.
const retryCopy = 5 * time.Second

// baseline is where the base of the present epoch stands.
type baseline struct {
	spooled uint64 // by the relay
	// handed is the last frame given to the connection since its Welcome; its cursor, and
	// the copy it belongs to.
	handed uint64
	cursor resync.Cursor
	copy   int
}

// copying is the run of an epoch's copies in a goroutine of its own.
type copying struct {
	cancel context.CancelFunc
	done   chan struct{}
	trail  atomic.Pointer[trail]
	saved  time.Time // when the cursor was last saved
	shown  atomic.Pointer[desired.Progress]
}

// trail keeps the cursors of one copy.
type trail struct {
	resync.Trail
	copy int
}

// startCopies lets the epoch's copies run if they should and do not. In doubt the epoch is
// over: a run begun now would end in the next one, and be taken for its.
func (p *Pipeline) startCopies(ctx context.Context) {
	if p.doubt != nil || p.copying != nil || p.closing != nil || p.phase != desired.PhaseBase || !p.known || p.Now().Before(p.retryAt) {
		return
	}
	whole := ctx
	ctx, cancel := context.WithCancel(ctx)
	c := &copying{cancel: cancel, done: make(chan struct{})}
	c.trail.Store(&trail{copy: p.State.Copy})
	p.copying = c
	run := copyRun{p: p, c: c, state: p.State, base: p.base, disks: map[block.DiskID]capture.Disk{}}
	for id, d := range p.disks {
		run.disks[id] = d.Disk
	}
	go func() {
		err := run.all(ctx)
		p.post(ctx, func() error { return p.copyEnded(whole, c, &run, err) })
		close(c.done)
	}()
}

// stopCopies ends the copies' goroutine; its cursor stays in the state.
func (p *Pipeline) stopCopies() {
	p.closing = nil
	if p.copying == nil {
		return
	}
	p.copying.cancel()
	<-p.copying.done // nothing of it may reach the connection any more
	p.copying = nil
}

// rewindCopies has the copies begin again behind what the relay has of the base: what
// was on its way is forgotten with the old connection.
func (p *Pipeline) rewindCopies(to baseline) {
	c := p.copying
	p.stopCopies()
	p.base, p.retryAt = to, time.Time{}
	if c == nil {
		return
	}
	if t := c.trail.Load(); t.copy == p.State.Copy {
		p.State.Cursor = t.Spooled(to.spooled)
	}
}

// copyEnded closes the base, or lets the copies start again after a while from where
// they stopped, or makes a doubt of what they found.
func (p *Pipeline) copyEnded(ctx context.Context, c *copying, r *copyRun, err error) error {
	if p.copying != c {
		return nil
	}
	p.copying, p.base = nil, r.base
	if err == nil && p.roughly() {
		p.roughDone(ctx)
		return nil
	}
	if err == nil {
		p.closing = &closing{ringPos: r.ringPos, frames: max(r.base.handed, r.base.spooled), bytes: r.bytes}
		return nil
	}
	p.Log.Warn("copy interrupted", "epoch", p.State.Epoch, "err", err)
	if errors.Is(err, resync.ErrResized) {
		p.disputed(err)
		p.raise(doubt{reason: frame.ReasonResized, detail: err.Error(), whole: p.all()})
		return nil
	}
	p.event(desired.Event{Type: "copy-failed", Severity: desired.Warning, Message: err.Error(), Remedy: "the copy is tried again from where it stopped"})
	p.retryAt = p.Now().Add(retryCopy)
	return nil
}

// copyRun is what the copies' goroutine works with; what it shares with the consumer
// goes through post and call.
type copyRun struct {
	p     *Pipeline
	c     *copying
	state State
	base  baseline
	disks map[block.DiskID]capture.Disk
	bytes int64
	// ringPos is what closing needs: taken after the last base block was read.
	ringPos uint64
}

// next is the number of the next base frame. What this process handed out is on its
// way; of what an earlier one did only that counts which was spooled.
func (r *copyRun) next() uint64 { return max(r.base.handed, r.base.spooled) + 1 }

// from is where copy i goes on.
func (r *copyRun) from(i int) resync.Cursor {
	switch {
	case r.base.handed > 0 && i == r.base.copy:
		return r.base.cursor
	case i == r.state.Copy:
		return r.state.Cursor
	default:
		return resync.Cursor{}
	}
}

// all runs the copies that are left and waits until their frames are spooled.
func (r *copyRun) all(ctx context.Context) error {
	if err := r.p.Source.Barrier(ctx, r.state.Disks...); err != nil {
		return fmt.Errorf("waiting for writes submitted before capture: %w", err)
	}
	// What a failed run handed over is on its way; the next frame has to follow it.
	if err := r.p.Relay.FlushBase(ctx); err != nil {
		return fmt.Errorf("waiting for the relay to spool the base: %w", err)
	}
	for i := r.state.Copy; i < len(r.state.Copies); i++ {
		if err := r.one(ctx, i); err != nil {
			return err
		}
	}
	pos, err := r.p.Source.SwapDirty(ctx)
	if err != nil {
		return fmt.Errorf("finding the end of the base: %w", err)
	}
	r.ringPos = pos
	return nil
}

// one runs copy i, from the state's cursor if that is where it stopped.
func (r *copyRun) one(ctx context.Context, i int) error {
	job := resync.Job{Machine: r.p.Machine, Epoch: r.state.Epoch, Method: r.state.Copies[i].Method, FirstFrame: r.next(), Cursor: r.from(i)}
	for _, id := range r.state.Copies[i].Disks {
		t, err := r.target(job.Method, id)
		if err != nil {
			return err
		}
		job.Disks = append(job.Disks, t)
	}
	if job.Method == frame.MethodHash {
		// The compare is against the log up to this epoch: it must be in the vault.
		if err := r.p.waitCommitted(ctx, r.state.Began); err != nil {
			return err
		}
	}
	r.c.trail.Store(&trail{copy: i})
	result, err := resync.Run(ctx, job, copySink{r, i}, r.p.Relay, resync.Options{
		Log: r.p.Log, Open: r.p.Open, Limit: r.p.throttle.Load,
		Progress: func(g resync.Progress) { r.c.progress(job.Method, g) },
	})
	if err != nil {
		return err
	}
	r.bytes += result.Bytes
	// Only frames that are spooled count as done: those in flight die with the agent.
	if err := r.p.Relay.FlushBase(ctx); err != nil {
		return fmt.Errorf("waiting for the relay to spool the base: %w", err)
	}
	return r.p.call(ctx, func() error {
		if r.p.copying == r.c {
			r.p.State.Frames = r.next() - 1
		}
		return r.p.copied(r.c, i+1, resync.Cursor{})
	})
}

// target describes the disk to resync. The doubt is what the kernel holds now: never
// less than when the epoch began.
func (r *copyRun) target(m frame.Method, id block.DiskID) (resync.Target, error) {
	d := r.disks[id]
	t := resync.Target{ID: id, Path: d.Path, Size: d.Size, Fresh: m == frame.MethodFull}
	if m != frame.MethodRanges {
		return t, nil
	}
	dirty, err := r.p.Source.Dirty(id)
	if err != nil {
		return t, fmt.Errorf("dirty map of disk %s (%s): %w", d.Name, d.Path, err)
	}
	t.Doubt = dirty
	return t, nil
}

// copySink sends the base frames of one copy and remembers where they end.
type copySink struct {
	*copyRun
	i int
}

// SendBase hands a base frame to the relay's connection.
func (s copySink) SendBase(ctx context.Context, raw []byte, n uint64, c resync.Cursor) error {
	s.c.trail.Load().Note(c)
	if err := s.p.Relay.SendBase(ctx, raw, n); err != nil {
		return err
	}
	s.base.handed, s.base.cursor, s.base.copy = n, c, s.i
	return nil
}

// copied notes how far copy i has come.
func (p *Pipeline) copied(c *copying, i int, at resync.Cursor) error {
	if p.copying != c {
		return nil
	}
	p.State.Copy, p.State.Cursor = i, at
	return p.save()
}

// progress shows how far the running copy is, and where it could go on.
func (c *copying) progress(m frame.Method, g resync.Progress) {
	c.trail.Load().Note(g.Cursor)
	c.shown.Store(&desired.Progress{Method: string(m), Done: g.Done, Total: g.Total, Sent: g.Sent, ETASeconds: g.Left.Seconds()})
}
