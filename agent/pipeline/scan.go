package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/agent/consistency"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Where the source sees only that something was written (agent/capture/scan), the doubt
// is there again with the first write after an epoch's base, and a scan settles it:
//
//  1. The disks are compared by hash and what differs is sent, in an epoch that is never
//     complete: everybody goes on writing.
//  2. Every file system on the disks is frozen, the disks are compared once more, and
//     little differs. Without a write from the beginning to the end the base is complete.
//  3. All is thawed. Up to the next write each frame is a point.

const (
	// scanFreeze is how long the file systems may be frozen where the policy says nothing.
	scanFreeze = time.Minute
	// scanPoll is how often the kernel's counts are read: nothing waits for it.
	scanPoll = 100 * time.Millisecond
	// scanAgain is how long after a scan that failed another is tried.
	scanAgain = 10 * time.Minute
)

var errLetGo = errors.New("protection ended")

// scan is one under way.
type scan struct {
	rough    bool // not frozen yet
	frozen   bool
	cancel   context.CancelCauseFunc
	complete chan struct{} // closed with the base
	done     chan struct{} // everything is thawed; nil while rough
}

// scanOn brings the next scan on its way while the log is in doubt.
func (p *Pipeline) scanOn(ctx context.Context, now time.Time) error {
	if p.scanning == nil {
		if !p.scanDue(now) {
			return nil
		}
		p.scanning = &scan{rough: true}
	}
	if !p.scanning.rough && !p.scanning.frozen {
		return nil // the freezer will say
	}
	whole := p.all()
	p.doubt.merge(doubt{reason: p.doubt.reason, whole: whole})
	return p.begin(ctx, now)
}

// scanDue: by the policy, or because a resync was asked for.
func (p *Pipeline) scanDue(now time.Time) bool {
	every := p.scanEvery()
	if every == 0 || now.Before(p.scanAt) {
		return false
	}
	return p.wished.Resync > p.State.Resync || now.Sub(p.State.Scanned).Abs() >= every
}

func (p *Pipeline) scanEvery() time.Duration {
	return time.Duration(p.wished.Policy.ScanSeconds) * time.Second
}

// roughly is the step of an epoch that is not meant to be complete.
func (p *Pipeline) roughly() bool { return p.scanning != nil && p.scanning.rough && p.capturing() }

// roughDone goes on with the freeze once the first compare is spooled.
func (p *Pipeline) roughDone(ctx context.Context) {
	p.doubt = &doubt{reason: p.State.Reason, detail: "compared while everybody went on writing"}
	whole := p.all()
	p.doubt.merge(doubt{reason: p.State.Reason, whole: whole})
	p.keepDoubt(whole)
	if err := p.Source.Disarm(); err != nil {
		p.doubt.detail += fmt.Sprintf("; disarming the scan: %v", err)
	}
	job := consistency.Job{Late: p.Late, Hold: p.hold, Scripts: !p.wished.Policy.NoScripts, Disks: p.numbers(),
		Deadline: time.Duration(p.wished.Policy.ScanFreezeSeconds) * time.Second}
	if job.Deadline == 0 {
		job.Deadline = scanFreeze
	}
	in, cancel := context.WithCancelCause(ctx)
	s := &scan{cancel: cancel, complete: make(chan struct{}), done: make(chan struct{})}
	p.scanning = s
	go func() {
		o := p.quiesce(in, job, func(ctx context.Context, _ func() error) error {
			p.post(ctx, func() error { s.frozen = true; return nil })
			select {
			case <-s.complete:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
		p.post(ctx, func() error { return p.scanEnded(s, o) })
		close(s.done)
	}()
}

// settleScan lets the machine go on once the base is complete.
func (p *Pipeline) settleScan() {
	if s := p.scanning; s != nil && s.frozen && p.phase == desired.PhaseSteady {
		s.frozen = false
		close(s.complete)
	}
}

// breakScan ends a scan; the freezer thaws.
func (p *Pipeline) breakScan(why error) {
	s := p.scanning
	if s == nil {
		return
	}
	if s.rough {
		p.scanning = nil
		return
	}
	s.frozen = false
	s.cancel(why)
}

// scanEnded takes down what came of it and tells the operator. A base that the deadline
// overtook goes on, and may still be complete if nobody writes.
func (p *Pipeline) scanEnded(s *scan, o consistency.Outcome) error {
	if p.scanning != s {
		return nil
	}
	p.scanning = nil
	now := p.Now()
	if o.Problem == nil {
		p.State.Scanned, p.scanAt = now, time.Time{}
	} else {
		p.scanAt = now.Add(min(scanAgain, p.scanEvery()))
	}
	p.event(scanEvent(o, p.scanAt))
	p.publish(now)
	return p.save()
}

func scanEvent(o consistency.Outcome, again time.Time) desired.Event {
	where := fmt.Sprintf("%s frozen for %d ms", strings.Join(o.Mounts, ", "), o.Frozen.Milliseconds())
	if len(o.Mounts) == 0 {
		where = "nothing had to be frozen"
	}
	notes := strings.Join(append([]string{where}, o.Notes...), "; ")
	if o.Problem == nil {
		return desired.Event{Type: "scanned", Severity: desired.Info, Message: clipped("the disks were scanned: a new point is there; "+notes, maxMessage)}
	}
	return desired.Event{Type: "scan-failed", Severity: desired.Warning,
		Message: clipped(fmt.Sprintf("a scan made no point: %v; %s", o.Problem, notes), maxMessage),
		Remedy: fmt.Sprintf("it is tried again at %s. Give it longer (understudy policy set NAME --scan-freeze 5m), or stop what writes to a disk whose file systems are frozen: a database on the device itself, swap; earlier points stay good",
			again.UTC().Format(time.RFC3339))}
}

// stopScan ends the scan when the agent does; it returns when everything is thawed.
func (p *Pipeline) stopScan() {
	s := p.scanning
	p.breakScan(errors.New("the agent ends"))
	if s == nil || s.done == nil {
		return
	}
	for {
		select {
		case <-s.done:
			p.scanning = nil
			return
		case f := <-p.calls:
			_ = f()
		}
	}
}

// scanState is how the scans stand, for the report; nil where writes are captured.
func (p *Pipeline) scanState() *desired.ScanState {
	if !p.Scan {
		return nil
	}
	s := &desired.ScanState{Last: p.State.Scanned}
	if every := p.scanEvery(); every > 0 && !s.Last.IsZero() {
		s.Next = s.Last.Add(every)
	}
	if s.Next.Before(p.scanAt) {
		s.Next = p.scanAt
	}
	return s
}

// noScans is why nothing is done where the policy does not allow it: to freeze a machine
// for minutes is not for us to decide.
func (p *Pipeline) noScans() *problem.Problem {
	return problem.New(problem.Conflict, "say how often and for how long its file systems may be frozen: understudy policy set NAME --scan-every 12h --scan-freeze 5m; or give it a kernel from 5.10 with BTF",
		"this machine's kernel does not give the data of writes, and its policy wants no scans")
}

// numbers are the tracked disks as the kernel's files name them.
func (p *Pipeline) numbers() []string {
	var all []string
	for _, id := range p.tracked() {
		d := p.disks[id]
		all = append(all, fmt.Sprintf("%d:%d", d.Major, d.Minor))
	}
	return all
}
