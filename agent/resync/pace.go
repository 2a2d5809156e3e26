package resync

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// The pacer keeps the latency of whoever else uses the disk. It begins slowly,
// doubles while nobody suffers and halves when somebody does; after the first harm it
// rises in smaller steps, so that it settles just below what the disk bears.
//
// Whether somebody suffers is measured, not guessed. While others write, the kernel's
// average wait of a write tells; all writes are theirs. While they only read, their
// reads cannot be told from ours in the kernel's counters, so a lone 4 KiB read of our
// own stands for theirs. What is normal is measured the same way in short pauses.
const (
	paceTick  = 200 * time.Millisecond
	paceStart = 64 << 20 // bytes/s
	paceFloor = 4 << 20  // bytes/s: however busy the disk, the copy comes to an end
	// calmEvery is how often the normal wait is measured anew, calmFor for how long:
	// 2% of the time, on a busy disk only.
	calmEvery = 10 * time.Second
	calmFor   = 200 * time.Millisecond
	// Somebody suffers from calm·paceHarm + paceSlack on. The slack is what no
	// application notices; without it a 50 µs disk would never be read.
	paceHarm  = 1.5
	paceSlack = 500 * time.Microsecond
	// busyWrites in a tick, or busyReads bytes, make a disk busy. A journal's timer or
	// an atime is not a workload.
	busyWrites = 4
	busyReads  = 64 << 10
	probes     = 4 // lone reads a tick
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

	// Used by run alone.
	harmed bool
	calm   [2]time.Duration // normal wait, by kind; 0 is unknown
	calmAt time.Time
}

// kind is what others do, which decides how their wait is measured.
type kind int

const (
	writing kind = iota
	reading
	idle
)

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
	last, err := p.gauge()
	if err != nil {
		p.log.Info("disk activity cannot be seen: the copy is not paced", "err", err)
		p.greedy = true
	}
	for !p.greedy {
		if sleep(ctx, paceTick) != nil {
			return nil
		}
		now, err := p.gauge()
		if err != nil {
			return nil // a disk that is gone fails where it is read
		}
		p.step(ctx, last, now)
		if last, err = p.gauge(); err != nil {
			return nil
		}
	}
	return nil
}

// step judges one tick and sets the rate for the next.
func (p *pacer) step(ctx context.Context, from, to Activity) {
	p.mu.Lock()
	own, at := p.own, p.at
	p.own = 0
	p.mu.Unlock()
	k := others(from, to, own)
	if k == idle {
		p.harmed = false
		p.set(p.rate*2, own)
		return
	}
	if p.calm[k] == 0 || time.Since(p.calmAt) > calmEvery {
		p.measureCalm(ctx, at)
	}
	wait, calm := p.waitOf(k, from, to, at), p.calm[k]
	switch {
	case calm == 0:
	case wait > time.Duration(float64(calm)*paceHarm)+paceSlack:
		p.harmed = true
		used := float64(own) / paceTick.Seconds()
		p.set(min(p.rate, used)/2, own)
	case p.harmed:
		p.set(p.rate*1.25, own)
	default:
		p.set(p.rate*2, own)
	}
}

// set changes the rate. It rises only while it is what holds the reads back.
func (p *pacer) set(rate float64, own int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	used := float64(own) / paceTick.Seconds()
	if rate > p.rate && used < p.rate/2 {
		return
	}
	p.rate = max(rate, paceFloor)
}

// others tells what everybody else did between two samples.
func others(from, to Activity, own int64) kind {
	switch {
	case to.Writes-from.Writes >= busyWrites:
		return writing
	case to.ReadBytes-from.ReadBytes-own >= busyReads:
		return reading
	}
	return idle
}

// waitOf is the average wait of others' requests between two samples, as far as it
// can be measured.
func (p *pacer) waitOf(k kind, from, to Activity, at int64) time.Duration {
	if k == writing {
		n := to.Writes - from.Writes
		if n == 0 {
			return 0
		}
		return (to.WriteWait - from.WriteWait) / time.Duration(n)
	}
	var sum time.Duration
	for range probes {
		d, err := p.lone(at)
		if err != nil {
			return 0
		}
		sum += d
	}
	return sum / probes
}

// measureCalm measures the normal wait of both kinds with our own reads held back.
func (p *pacer) measureCalm(ctx context.Context, at int64) {
	resume := p.pause()
	defer resume()
	if sleep(ctx, calmFor/4) != nil { // reads in flight end
		return
	}
	from, err := p.gauge()
	if err != nil || sleep(ctx, calmFor) != nil {
		return
	}
	to, err := p.gauge()
	if err != nil {
		return
	}
	p.calm[writing] = p.waitOf(writing, from, to, at)
	p.calm[reading] = p.waitOf(reading, from, to, at)
	p.calmAt = time.Now()
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
