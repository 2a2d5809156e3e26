package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/journal"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// raise notes a doubt: the epoch ends with the last stored frame. What was gathered
// since is in the dirty maps.
func (p *Pipeline) raise(d doubt) {
	p.w.drop()
	if p.doubt != nil {
		p.doubt.merge(d)
		p.keepDoubt(d.whole)
		return
	}
	p.doubt = &doubt{reason: d.reason, detail: d.detail}
	p.doubt.merge(d)
	p.keepDoubt(d.whole)
	p.stopCopies()
	p.stopProof()
	p.breakCut()
	p.breakScan(errors.New(d.detail))
	if err := p.Source.Disarm(); err != nil {
		p.doubt.detail += fmt.Sprintf("; disarming the capture: %v", err)
	}
	p.Log.Warn("log interrupted", "reason", d.reason, "detail", d.detail, "position", p.w.at)
	p.publish(p.Now()) // the report with the event shows why, and what a proof found: until then no point is in doubt
	p.event(desired.Event{
		Type: string(d.reason), Severity: severity(d.reason),
		Message: fmt.Sprintf("epoch %d ends at %s: %s", p.State.Epoch, p.w.at, d.detail),
		Remedy:  remedies[d.reason],
	})
}

// raiseLoss raises what capture says was lost.
func (p *Pipeline) raiseLoss() {
	h, err := p.Source.Health()
	if err != nil {
		p.raise(doubt{reason: frame.ReasonCaptureUnreadable, detail: err.Error(), whole: p.all()})
		return
	}
	p.raiseHealth(h)
}

func (p *Pipeline) raiseHealth(h capture.Health) {
	d := doubt{reason: frame.Reason(h.Reason()), whole: map[block.DiskID]bool{}}
	if d.reason == "" {
		d.reason, d.detail = frame.ReasonCaptureReplaced, "another stretch of capture goes on than the one this log was made of"
	}
	for _, l := range h.Losses {
		d.detail += fmt.Sprintf("%s (%d times); ", l.Cause, l.Count)
	}
	for _, k := range h.Disks {
		if k.Suspect || k.Gone || k.Resized {
			d.whole[k.Disk] = true
		}
	}
	d.detail = strings.TrimSuffix(d.detail, "; ")
	p.raise(d)
}

// keepDoubt writes down what of the doubt the kernel does not know, before anything
// else is done about it. Where the journal does not take it the kernel shall know: its
// dirty maps outlive the agent, too. Disks that are not tracked need no word there: they
// are compared when they are tracked again, or capture has another ring than the log.
func (p *Pipeline) keepDoubt(whole map[block.DiskID]bool) {
	if len(whole) == 0 {
		return
	}
	err := p.noteDoubt(p.doubt.reason, whole)
	if err == nil {
		return
	}
	p.Log.Warn("doubt kept in the dirty maps: the journal does not take it", "reason", p.doubt.reason, "err", err)
	for id := range whole {
		d := p.disks[id]
		if d == nil || d.problem != nil {
			continue
		}
		if err := p.Source.MarkDirty(id, block.NewSet(block.Extent{Len: d.Size})); err != nil {
			p.Log.Error("the doubt would not outlive the agent", "disk", d.Name, "reason", p.doubt.reason, "err", err)
		}
	}
}

func (p *Pipeline) noteDoubt(reason frame.Reason, whole map[block.DiskID]bool) error {
	p.State.suspect(reason, whole)
	return p.save()
}

// all names every disk as wholly in doubt, those too that are not tracked yet or any
// more: the vault holds them.
func (p *Pipeline) all() map[block.DiskID]bool {
	whole := map[block.DiskID]bool{}
	for id := range p.disks {
		whole[id] = true
	}
	for _, id := range p.State.Known {
		whole[id] = true
	}
	return whole
}

// begin opens the next epoch if it can be opened now.
func (p *Pipeline) begin(ctx context.Context, now time.Time) error {
	if !p.known || p.fill() > resumeBelow {
		return nil // the welcome, or acknowledgements, will come
	}
	if p.dispute.pending(now) {
		return nil
	}
	if p.gens.swapping {
		return nil
	}
	if err := p.retrack(ctx); err != nil {
		return err
	}
	disks := p.tracked()
	if len(disks) == 0 {
		return nil
	}
	stretch, err := p.Source.Arm(ctx)
	if err != nil {
		return fmt.Errorf("pipeline: machine %s: starting capture: %w", p.Machine, err)
	}
	// Everything written until now is in the dirty maps: those bits are the doubt.
	if _, err := p.Source.SwapDirty(ctx); err != nil {
		return fmt.Errorf("pipeline: machine %s: retaining the dirty maps: %w", p.Machine, err)
	}
	p.more = false
	p.gens.hold(now)
	next := p.next(p.doubt, disks, stretch, now)
	m, err := p.beginMark(p.doubt, next, disks)
	if err != nil {
		return err
	}
	p.w.ringPos = stretch.Pos
	return p.open(ctx, next, m, now)
}

// open writes down what is about to begin, stores the mark and lets records flow.
func (p *Pipeline) open(ctx context.Context, next State, m frame.Mark, now time.Time) error {
	before := p.State
	p.State = next
	if err := p.save(); err != nil {
		return err
	}
	if err := p.w.mark(next.Epoch, m, now, now); err != nil {
		p.State = before
		if errors.Is(err, journal.ErrFull) {
			return errors.Join(p.Source.Disarm(), p.save()) // the doubt stands; the journal has to drain first
		}
		return fmt.Errorf("pipeline: machine %s: beginning epoch %d: %w", p.Machine, next.Epoch, err)
	}
	p.doubt, p.phase, p.base = nil, desired.PhaseBase, baseline{}
	p.countEpoch(next.Reason)
	p.Log.InfoContext(ctx, "epoch begins", "epoch", next.Epoch, "reason", next.Reason, "method", method(next.Copies), "position", p.w.at)
	return nil
}

// next is the state at the beginning of the next epoch.
func (p *Pipeline) next(d *doubt, disks []block.DiskID, stretch capture.Armed, now time.Time) State {
	copies := p.State.plan(disks, d.whole)
	next := State{
		Machine: p.Machine, Epoch: max(p.w.at.Epoch, p.heard) + 1, Reason: d.reason, Since: now, Began: p.w.at.Seq + 1,
		Stretch: stretch, Copies: copies, Disks: disks, Known: addNew(p.State.Known, disks),
		Unsure: p.State.Unsure, Resync: max(p.State.Resync, p.wished.Resync), Proof: p.State.Proof,
		Point: p.State.Point, Tried: p.State.Tried, Scanned: p.State.Scanned,
	}
	// Only below ranges does the settled base stay: everything else is read anew.
	for _, id := range disks {
		if copyOf(copies, id) == frame.MethodRanges {
			next.Settled = append(next.Settled, id)
		}
	}
	return next
}

// beginMark describes the epoch: why it begins, and what of which disk is in doubt.
func (p *Pipeline) beginMark(d *doubt, next State, disks []block.DiskID) (frame.Mark, error) {
	m := frame.Mark{Type: frame.MarkEpochBegin, Reason: d.reason, Detail: d.detail, Method: method(next.Copies)}
	for _, id := range disks {
		k := p.disks[id]
		md := frame.MarkDisk{ID: id, Name: k.Name, Path: k.Path, Size: k.Size, SectorSize: k.SectorSize}
		if copyOf(next.Copies, id) == frame.MethodRanges {
			dirty, err := p.Source.Dirty(id)
			if err != nil {
				return m, fmt.Errorf("pipeline: machine %s: dirty map of disk %s (%s): %w", p.Machine, k.Name, k.Path, err)
			}
			md.Doubt = coarsen(dirty, maxDoubtExtents).Extents()
		} else {
			md.Whole = true
		}
		m.Disks = append(m.Disks, md)
	}
	return m, nil
}

// closing is a base of which every frame is spooled, waiting for the log to get there.
type closing struct {
	ringPos uint64 // every write that the copies may have read lies before it
	frames  uint64
	bytes   int64
}

// closeBase stores the base-complete mark once all records captured until the last
// base block was read stand before it.
func (p *Pipeline) closeBase(now time.Time) error {
	c := p.closing
	if c == nil || p.more || p.Source.Polled() < c.ringPos {
		return nil
	}
	if err := p.closeFrame(now); err != nil || p.doubt != nil {
		return err
	}
	p.closing = nil
	p.State.Complete, p.State.Frames = p.w.at.Seq+1, c.frames
	if err := p.save(); err != nil {
		return err
	}
	m := frame.Mark{Type: frame.MarkBaseComplete, BaseFrames: c.frames, BaseBytes: c.bytes}
	if err := p.store(p.w.mark(p.State.Epoch, m, later(p.seen, p.w.reached), now)); err != nil || p.doubt != nil {
		return err
	}
	p.phase, p.dispute = desired.PhaseSteady, dispute{}
	p.gens.release(p.State.Complete)
	p.Log.Info("base complete", "epoch", p.State.Epoch, "frames", c.frames, "bytes", c.bytes, "position", p.w.at)
	return nil
}

// unsure reports whether a disk of the epoch has come into doubt as a whole since, or was
// let go of: its dirty map says nothing then of what the vault lacks.
func (p *Pipeline) unsure(id block.DiskID) bool {
	d := p.disks[id]
	return d == nil || d.problem != nil || p.doubt != nil && p.doubt.whole[id] || p.State.doubts(id)
}

// settle notes that the vault holds the epoch's whole base.
func (p *Pipeline) settle() error {
	if p.State.Complete == 0 || p.committed < p.State.Complete || len(p.State.Settled) == len(p.State.Disks) {
		return nil
	}
	sure := slices.DeleteFunc(slices.Clone(p.State.Disks), p.unsure)
	settled := addNew(slices.Clone(p.State.Settled), sure)
	if len(settled) == len(p.State.Settled) {
		return nil
	}
	p.State.Settled = settled
	return p.save()
}

func (p *Pipeline) save() error {
	s, err := p.memo()
	if err == nil {
		err = p.Journal.SaveState(s)
	}
	if err != nil {
		return fmt.Errorf("pipeline: machine %s: %w", p.Machine, err)
	}
	return nil
}

// severity of the event that a reason makes: what the operator asked for is no news.
func severity(r frame.Reason) desired.Severity {
	switch r {
	case frame.ReasonInitial, frame.ReasonDiskAdded, frame.ReasonDiskRemoved, frame.ReasonOperator, frame.ReasonNotCaptured:
		return desired.Info
	case frame.ReasonScrubDifference:
		return desired.Error
	default:
		return desired.Warning
	}
}

// remedies tell the operator what to do about a reason, most of all if it comes back.
// What he asked for himself has none.
var remedies = map[frame.Reason]string{
	frame.ReasonRingOverflow:      "nothing now: the missing ranges are resynced. If it comes back, give the agent more CPU or a larger ring",
	frame.ReasonJournalOverflow:   "nothing now: the missing ranges are resynced. If it comes back, enlarge the journal or the way to the relay",
	frame.ReasonJournalDamaged:    "nothing now: the missing ranges are resynced. If it comes back, look at the disk under the journal",
	frame.ReasonRecursionMiss:     "nothing now: the disks are compared by hash. If it comes back, tell the makers of Understudy which kernel this is",
	frame.ReasonAuditDifference:   "nothing now: the disks are compared by hash. If it comes back, tell the makers of Understudy which kernel this is",
	frame.ReasonPassthroughWrite:  "find what writes past the file systems (SG_IO, nvme-cli) and stop it; the disk is compared by hash",
	frame.ReasonUncleanStop:       "nothing: the disks are compared by hash, and what differs is sent",
	frame.ReasonDeviceChanged:     "nothing, if it was meant: the disk is compared by hash. If it is gone, attach it again or unprotect it",
	frame.ReasonResized:           "nothing: the disk is compared by hash at its new size",
	frame.ReasonRelayLostSpool:    "look at the relay's spool disk; the ranges that were not in the vault are resynced",
	frame.ReasonIdentityConflict:  "if this machine was cloned or restored from an image, enrol it again with a new token",
	frame.ReasonCaptureReplaced:   "nothing: what was not captured is resynced. If it comes back, look for a second agent with the same instance",
	frame.ReasonScrubDifference:   "nothing now: the ranges are resynced. Points that may show them wrongly are marked in understudy point list; look at the disks on both sides (dmesg, smartctl, understudy vault check), and tell the makers of Understudy if both are sound",
	frame.ReasonNotCaptured:       "nothing: the next scan makes the next point. A kernel from 5.10 with BTF would make every second one",
	frame.ReasonCaptureUnreadable: "nothing now: the disks are compared by hash. If it comes back, restart the agent and keep its log",
}
