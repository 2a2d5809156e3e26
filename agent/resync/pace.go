package resync

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// The pacer keeps the latency of whoever else uses the disk. It doubles its rate while
// nobody suffers and halves it when somebody does; after the first harm it rises in
// smaller steps, so that it settles just below what the disk bears. Beside others it
// reads in small pieces, because a request of theirs that meets one of ours waits for
// all of it.
//
// Whether somebody suffers is measured, not guessed. While others write, the kernel's
// average wait of a write tells: all writes are theirs. Their reads the kernel does not
// tell from ours, so while they only read, lone 4 KiB reads of our own stand for
// theirs. What is normal, and whether they read at all, shows in short pauses of ours.
const (
	paceTick  = 200 * time.Millisecond
	paceStart = 256 << 20 // bytes/s
	paceFloor = 8 << 20   // bytes/s: however busy the disk, the copy comes to an end
	paceFree  = 8 << 30   // bytes/s: as fast as the disk gives, where nobody else uses it
	paceGrain = 128 << 10 // bytes read at once beside others
	// Every calmEvery our reads pause for calmSettle, in which those in flight end, and
	// a tick, in which the normal is measured: 2.5% of the time.
	calmEvery  = 10 * time.Second
	calmSettle = 50 * time.Millisecond
	calmRetry  = time.Second // if the pause showed nothing of what goes on now
	// So many harmed ticks more than others, and the normal is measured before its time:
	// perhaps it is not our reads that others wait for.
	harmsDoubted = 3
	calmDoubted  = 4 * time.Second
	// Somebody suffers from calm·paceHarm + paceSlack on. The slack is for the clock's
	// and the scheduler's noise on disks that answer in less than that.
	paceHarm  = 1.25
	paceSlack = 100 * time.Microsecond
	// So many requests of others in a tick make a disk busy. A journal's timer or an
	// atime is not a workload.
	busyRequests = 4
	probes       = 5 // lone reads a tick
)

// pacer holds back the reads of one disk.
type pacer struct {
	limit  func() int64
	gauge  func() (Activity, error)
	lone   func(off int64) (time.Duration, error) // times one small read
	greedy bool
	log    *slog.Logger

	mu     sync.Mutex
	rate   float64 // bytes/s, the adaptive part
	next   time.Time
	paused chan struct{} // closed at the end of a pause; nil outside
	own    int64         // bytes granted since the last tick
	at     int64         // where reading stands
	busy   bool          // others use the disk

	// Used by run alone.
	harmed  bool             // since others began
	harms   int              // ticks with harm less those without
	calm    [2]time.Duration // normal wait, by kind; 0 is unknown
	calmAt  time.Time
	readers bool // others read, in the last pause
}

// kind is what others do, which decides how their wait is measured.
type kind int

const (
	writing kind = iota
	reading
	idle
)

// window is what was seen of a disk in one tick.
type window struct {
	reads, writes uint64           // finished requests, ours included
	wait          [2]time.Duration // average wait, by kind; 0 is unknown
}

func newPacer(opt Options, d *disk, log *slog.Logger) *pacer {
	probe := aligned(block.FineGranule)
	return &pacer{
		limit: opt.Limit, gauge: d.dev.Activity, greedy: opt.Greedy, rate: paceStart, log: log.With("disk", d.Path),
		lone: func(off int64) (time.Duration, error) {
			start := time.Now()
			_, err := d.dev.ReadAt(probe, off)
			return time.Since(start), err
		},
	}
}

// grain is how much to read at once.
func (p *pacer) grain() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy {
		return paceGrain
	}
	return chunkSize
}

// wait blocks until the span may be read.
func (p *pacer) wait(ctx context.Context, span block.Extent) error {
	for {
		p.mu.Lock()
		paused := p.paused
		if paused == nil {
			break
		}
		p.mu.Unlock()
		select {
		case <-paused:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	at := p.grant(span)
	p.mu.Unlock()
	return sleep(ctx, time.Until(at))
}

// grant books the span and returns when its time has come. Up to a tenth of a tick of
// unused time is made up for, so that a timer's lateness does not lower the rate.
func (p *pacer) grant(span block.Extent) time.Time {
	now := time.Now()
	if early := now.Add(-paceTick / 10); p.next.Before(early) {
		p.next = early
	}
	at := p.next
	if rate := p.allowed(); rate > 0 {
		p.next = at.Add(time.Duration(float64(span.Len) / rate * float64(time.Second)))
	}
	p.own += span.Len
	p.at = span.Off
	return at
}

// allowed is the rate now in bytes/s, 0 for any.
func (p *pacer) allowed() float64 {
	rate := p.rate
	if p.greedy {
		rate = 0
	}
	if p.limit != nil {
		if l := float64(p.limit()); l > 0 && (rate == 0 || l < rate) {
			rate = l
		}
	}
	return rate
}

// run adapts the rate until the context ends. Where the disk's activity cannot be
// seen only the limit holds.
func (p *pacer) run(ctx context.Context) error {
	if p.greedy {
		return nil
	}
	for {
		w, err := p.watch(ctx, p.readers)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			p.log.Info("disk activity cannot be seen: the copy is not paced", "err", err)
			p.mu.Lock()
			p.greedy = true
			p.mu.Unlock()
			return nil
		}
		p.step(ctx, w)
	}
}

// watch observes the disk for a tick, with lone reads spread over it if asked for.
func (p *pacer) watch(ctx context.Context, lone bool) (w window, err error) {
	from, err := p.gauge()
	if err != nil {
		return w, err
	}
	var sum time.Duration
	for range probes {
		if err := sleep(ctx, paceTick/probes); err != nil {
			return w, err
		}
		if lone {
			d, err := p.lone(p.where())
			if err != nil {
				lone = false // the copy itself will meet the error and name it
			}
			sum += d
		}
	}
	to, err := p.gauge()
	if err != nil {
		return w, err
	}
	w.reads, w.writes = to.Reads-from.Reads, to.Writes-from.Writes
	if w.writes > 0 {
		w.wait[writing] = (to.WriteWait - from.WriteWait) / time.Duration(w.writes)
	}
	if lone {
		w.wait[reading] = sum / probes
	}
	return w, nil
}

func (p *pacer) where() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

// step judges one tick and sets the rate for the next.
func (p *pacer) step(ctx context.Context, w window) {
	k := p.others(w)
	p.mu.Lock()
	own := float64(p.own) / paceTick.Seconds()
	p.own, p.busy = 0, k != idle
	p.mu.Unlock()
	if k == idle {
		p.harmed, p.harms = false, 0
		p.set(p.rate*2, own)
	} else if calm := p.calm[k]; calm > 0 {
		p.judge(w.wait[k], calm, own)
	}
	if since := time.Since(p.calmAt); since > calmEvery ||
		since > calmDoubted && p.harms >= harmsDoubted ||
		since > calmRetry && k != idle && p.calm[k] == 0 {
		p.measureCalm(ctx)
	}
}

// judge compares the wait of others beside our reads with their normal one.
func (p *pacer) judge(wait, calm time.Duration, own float64) {
	harm := wait > time.Duration(float64(calm)*paceHarm)+paceSlack
	if harm {
		p.harms++
	} else {
		p.harms = max(0, p.harms-1)
	}
	switch {
	case harm:
		p.harmed = true
		p.set(min(p.rate, own)/2, own)
	case p.harmed:
		p.set(p.rate*1.25, own)
	default:
		p.set(p.rate*2, own)
	}
	p.log.Debug("copy paced", "wait", wait, "calm", calm, "read", int64(own), "rate", int64(p.rate))
}

// set changes the rate. It rises only while it is what holds the reads back.
func (p *pacer) set(rate, own float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if rate <= p.rate || own >= p.rate/2 {
		p.rate = max(rate, paceFloor)
	}
}

// others tells what everybody else does.
func (p *pacer) others(w window) kind {
	switch {
	case w.writes >= busyRequests:
		return writing
	case p.readers:
		return reading
	}
	return idle
}

// measureCalm measures the normal wait of both kinds with our own reads held back.
func (p *pacer) measureCalm(ctx context.Context) {
	resume := p.pause()
	defer resume()
	if sleep(ctx, calmSettle) != nil {
		return
	}
	w, err := p.watch(ctx, true)
	if err != nil {
		return
	}
	p.calmAt, p.harms = time.Now(), 0
	p.readers = w.reads >= probes+busyRequests
	if p.others(w) == idle {
		p.mu.Lock()
		p.rate = max(p.rate, paceFree)
		p.mu.Unlock()
	}
	for k, wait := range w.wait {
		switch {
		case wait > 0 && p.calm[k] > 0:
			p.calm[k] = (p.calm[k] + wait) / 2 // one tick says little on a restless disk
		case wait > 0:
			p.calm[k] = wait
		}
	}
}

func (p *pacer) pause() (resume func()) {
	ch := make(chan struct{})
	p.mu.Lock()
	p.paused = ch
	p.mu.Unlock()
	return func() {
		p.mu.Lock()
		p.paused = nil
		p.mu.Unlock()
		close(ch)
	}
}

// sleep waits for d, or until the context ends.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
