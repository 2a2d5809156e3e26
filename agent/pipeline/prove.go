package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/resync"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// proveAgain is how long a proof that was broken off waits before it goes on.
const proveAgain = time.Second

// proving is the run of a proof in a goroutine of its own.
type proving struct {
	cancel context.CancelFunc
	done   chan struct{}
	shown  atomic.Pointer[desired.Progress]
}

// proofRun is what that goroutine works with.
type proofRun struct {
	p     *Pipeline
	c     *proving
	pass  pass
	disks []capture.Disk
	rate  func() int64
}

// startProof lets a proof run if one should and does not.
func (p *Pipeline) startProof(ctx context.Context) {
	now := p.Now()
	if p.proving != nil || p.phase != desired.PhaseSteady || !p.known || now.Before(p.provedAt) || !p.proofDue(now) {
		return
	}
	p.provedAt = now.Add(proveAgain)
	ids := p.tracked()
	k := p.beginPass(ids, now)
	ctx, cancel := context.WithCancel(ctx)
	run := proofRun{p: p, c: &proving{cancel: cancel, done: make(chan struct{})}, pass: *k, rate: p.verifyRate.Load}
	for _, id := range ids {
		run.disks = append(run.disks, p.disks[id].Disk)
	}
	p.proving = run.c
	go func() {
		err := run.all(ctx)
		p.post(ctx, func() error { return p.proofEnded(run.c, err) })
		close(run.c.done)
	}()
}

// stopProof breaks the running proof off; what it has come to stays in the state.
func (p *Pipeline) stopProof() {
	p.breakWatches()
	if p.proving == nil {
		return
	}
	p.proving.cancel()
	<-p.proving.done
	p.proving, p.provedAt = nil, p.Now().Add(proveAgain)
}

// proofEnded notes how a proof ended, or lets it go on after a while.
func (p *Pipeline) proofEnded(c *proving, err error) error {
	if p.proving != c {
		return nil
	}
	p.proving, p.provedAt = nil, p.Now().Add(proveAgain)
	if errors.Is(err, errUnsteady) || errors.Is(err, context.Canceled) || errors.Is(err, &wire.Error{Code: wire.CodeHashesNoPoint}) {
		p.Log.Info("proof broken off, it goes on later", "err", err)
		return nil
	}
	p.State.Proof.end(p.State.Proof.Pass, p.Now(), err)
	last := p.State.Proof.Last
	p.event(proofEvent(last))
	p.Log.Info("proof ended", "result", last.Result, "from", last.From, "to", last.To, "equal", last.Equal, "different", last.Differs,
		"damaged", last.Damaged, "written", last.Written, "absent", last.Absent, "free", last.Free, "err", err)
	return p.save()
}

// proofEvent tells the operator. A difference was told when it was found.
func proofEvent(last *desired.Proof) desired.Event {
	e := desired.Event{Type: "verified", Severity: desired.Info, Message: fmt.Sprintf(
		"verified from %s to %s: %d bytes are equal, %d differ, %d are damaged in the vault; not compared: %d written during each try, %d never written since they were free, and %d free",
		last.From, last.To, last.Equal, last.Differs, last.Damaged, last.Written, last.Absent, last.Free)}
	if last.Result == desired.ProofFailed {
		e.Type, e.Severity, e.Message = "verify-failed", desired.Warning, "the replica could not be verified: "+last.Problem
		e.Remedy = "mend what it says, then ask again: understudy verify"
	}
	return e
}

// all goes over the disks from where the pass stands.
func (r *proofRun) all(ctx context.Context) error {
	for ; r.pass.Disk < len(r.disks); r.pass.Disk, r.pass.Off = r.pass.Disk+1, 0 {
		if err := r.disk(ctx, r.disks[r.pass.Disk]); err != nil {
			return err
		}
	}
	return nil
}

func (r *proofRun) disk(ctx context.Context, d capture.Disk) error {
	blind, err := r.p.blind(d)
	if err != nil {
		return err
	}
	q, err := resync.OpenProof(ctx, resync.Target{ID: d.ID, Path: d.Path, Size: d.Size}, blind, r.p.witness(ctx, d.ID), r.p.Relay,
		resync.Options{Log: r.p.Log, Open: r.p.Open, Limit: r.rate})
	if err != nil {
		return err
	}
	defer q.Close()
	free := q.Free
	if r.pass.Off > 0 {
		free = 0 // counted when the disk was begun
	}
	for r.pass.Off < d.Size {
		r.show(q)
		v, end, err := q.Next(ctx, r.pass.Off)
		if err != nil {
			return err
		}
		if err := r.p.call(ctx, func() error { return r.p.proved(r.c, d, v, end, free) }); err != nil {
			return err
		}
		r.pass.Off, free = end, 0
		r.pass.Total += v.Equal.Bytes() + v.Written.Bytes() + v.Absent.Bytes() + v.Differs.Bytes() + v.Damaged.Bytes()
		r.pass.Equal += v.Equal.Bytes()
	}
	return nil
}

func (r *proofRun) show(q *resync.Proof) {
	g := &desired.Progress{Method: "verify", Done: r.pass.Total, Total: r.pass.Total + q.Total(r.pass.Off), Sent: r.pass.Equal}
	for _, d := range r.disks[r.pass.Disk+1:] {
		g.Total += d.Size
	}
	r.c.shown.Store(g)
}

// blind is what capture does not see of a disk: the journal's own writes.
func (p *Pipeline) blind(d capture.Disk) (*block.Set, error) {
	_, dev, extents, err := p.where()
	if err != nil || dev != deviceNumber(d.Major, d.Minor) {
		return nil, nil //nolint:nilerr // exclude has told; then nothing is left out either
	}
	return block.NewSet(extents...), nil
}

// proved takes down what was found of a stretch of a disk, which is done up to off.
// With a difference it ends the epoch: the ranges are repaired by the next. That
// outlives the agent, as an epoch that has not begun, with the ranges in the kernel's
// dirty map.
func (p *Pipeline) proved(c *proving, d capture.Disk, v resync.Verdict, off, free int64) error {
	if p.proving != c {
		return errUnsteady
	}
	k := p.State.Proof.Pass
	if d.ID != k.Disks[k.Disk] {
		k.Disk++ // the one before is done
	}
	wrong := v.Differs.Clone()
	wrong.Union(v.Damaged)
	if wrong.Count() > 0 {
		if err := p.Source.MarkDirty(d.ID, wrong); err != nil {
			return fmt.Errorf("marking what differs: %w", err)
		}
	}
	k.Free += free
	k.add(v, off)
	if v.Absent.Count() > 0 {
		p.event(desired.Event{Type: "verify-absent", Disk: d.ID, Severity: desired.Warning, Message: fmt.Sprintf(
			"%d bytes of disk %s (%s) are in no frame of the vault, but are not zeros and not free: %s", v.Absent.Bytes(), d.Name, d.Path, listed(v.Absent)),
			Remedy: "nothing, if files were allocated without being written (fallocate) or the disk shows old bytes where it was trimmed; understudy resync copies them, and if others appear after that without either, tell the makers of Understudy"})
	}
	if wrong.Count() == 0 {
		return p.save()
	}
	for cause, set := range map[string]*block.Set{desired.FoundDifferent: v.Differs, desired.FoundDamaged: v.Damaged} {
		p.find(d, cause, set)
	}
	s := &p.State
	s.Reason, s.Began, s.Complete, s.Copies, s.Copy, s.Cursor = frame.ReasonScrubDifference, p.w.at.Seq+1, 0, nil, 0, resync.Cursor{}
	if err := p.save(); err != nil {
		return err
	}
	p.raise(doubt{reason: frame.ReasonScrubDifference, detail: differences(d, v)})
	return nil
}

// find keeps a finding, for the control plane to mark points by.
func (p *Pipeline) find(d capture.Disk, cause string, set *block.Set) {
	if set.Count() == 0 {
		return
	}
	f := desired.Finding{Found: p.Now(), At: p.w.at, Cause: cause, Bytes: set.Bytes()}
	if cause == desired.FoundDifferent {
		f.From = p.State.knownEqual(d.ID, set) // what is damaged may be older than any proof of it
	}
	for e := range coarsen(set, findingExtents).All() {
		f.Extents = append(f.Extents, block.DiskExtent{Disk: d.ID, Extent: e})
	}
	s := &p.State.Proof
	s.Findings = append(s.Findings, f)
	s.Findings = s.Findings[max(0, len(s.Findings)-keptFindings):]
}

// differences describes a verdict for the operator.
func differences(d capture.Disk, v resync.Verdict) string {
	var parts []string
	if v.Differs.Count() > 0 {
		parts = append(parts, fmt.Sprintf("%d bytes differ in the vault: %s", v.Differs.Bytes(), listed(v.Differs)))
	}
	if v.Damaged.Count() > 0 {
		parts = append(parts, fmt.Sprintf("%d bytes cannot be read from the vault, which holds a damaged object: %s", v.Damaged.Bytes(), listed(v.Damaged)))
	}
	return fmt.Sprintf("disk %s (%s) compared at %s to %s: %s; %d bytes around are equal", d.Name, d.Path, v.First, v.Last, strings.Join(parts, "; "), v.Equal.Bytes())
}

// listed names some extents of a set.
func listed(s *block.Set) string {
	const most = 8
	var names []string
	for e := range s.All() {
		if len(names) == most {
			names = append(names, fmt.Sprintf("and %d more", s.Count()-most))
			break
		}
		names = append(names, e.String())
	}
	return strings.Join(names, ", ")
}

// verifyState is how proofs stand, for reports.
func (p *Pipeline) verifyState(now time.Time) *desired.VerifyState {
	s := p.State.Proof
	if s.Pass == nil && s.Last == nil && len(s.Findings) == 0 && p.wished.Verify == (desired.Verify{}) {
		return nil
	}
	v := &desired.VerifyState{Last: s.Last, Findings: s.Findings}
	if v.Last != nil {
		v.Once = v.Last.Once
	}
	if s.Pass != nil {
		v.Running, v.Once = true, s.Pass.Once
		v.Progress = &desired.Progress{Method: "verify", Done: s.Pass.Total, Sent: s.Pass.Equal}
	}
	switch {
	case p.proving != nil && p.proving.shown.Load() != nil:
		v.Progress = p.proving.shown.Load()
	case p.phase != desired.PhaseSteady && p.proofDue(now):
		v.Waiting = "recovery points are being made again (phase " + string(p.phase) + ")"
	}
	return v
}
