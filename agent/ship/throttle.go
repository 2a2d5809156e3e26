package ship

import (
	"context"
	"sync"
	"time"
)

// Throttle bounds what a machine sends, log and base together.
type Throttle struct {
	// BytesPerSec holds outside of all windows; 0 is unlimited.
	BytesPerSec int64
	Windows     []Window
}

// Window is a part of the week with a bound of its own. The first that matches holds.
type Window struct {
	Days        []time.Weekday // none means every day
	From, To    time.Duration  // since local midnight; To before From runs over midnight
	BytesPerSec int64          // 0 is unlimited
}

// At is the bound at a time, 0 for unlimited.
func (t Throttle) At(now time.Time) int64 {
	for _, w := range t.Windows {
		if w.holds(now) {
			return w.BytesPerSec
		}
	}
	return t.BytesPerSec
}

// holds reports whether now lies in the window. A window over midnight belongs to the
// day it begins on.
func (w Window) holds(now time.Time) bool {
	h, m, s := now.Clock()
	at := time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second
	if w.From <= w.To {
		return at >= w.From && at < w.To && w.on(now.Weekday())
	}
	return at >= w.From && w.on(now.Weekday()) || at < w.To && w.on((now.Weekday()+6)%7)
}

func (w Window) on(day time.Weekday) bool {
	for _, d := range w.Days {
		if d == day {
			return true
		}
	}
	return len(w.Days) == 0
}

// limiter is a token bucket over the throttle of the moment. Tokens may go below zero
// by one frame: what follows waits for it.
type limiter struct {
	mu       sync.Mutex
	throttle Throttle
	ceiling  int64 // the relay's, 0 for none
	tokens   float64
	filled   time.Time
}

// burst is how long a rate may be saved up.
const burst = 250 * time.Millisecond

// recheck bounds a wait, so that a changed throttle is seen.
const recheck = time.Second

func newLimiter(t Throttle) *limiter { return &limiter{throttle: t} }

func (l *limiter) set(t Throttle) {
	l.mu.Lock()
	l.throttle = t
	l.mu.Unlock()
}

// cap sets the relay's bound, which holds beside this side's.
func (l *limiter) cap(rate int64) {
	l.mu.Lock()
	l.ceiling = rate
	l.mu.Unlock()
}

// wait takes n bytes out of the bucket as soon as it may. A patient caller (the base)
// leaves the first half of the bucket to the others.
func (l *limiter) wait(ctx context.Context, n int, patient bool) error {
	for {
		pause := l.take(time.Now(), n, patient)
		if pause == 0 {
			return ctx.Err()
		}
		t := time.NewTimer(min(pause, recheck))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// take takes n bytes, or says how long to wait before asking again.
func (l *limiter) take(now time.Time, n int, patient bool) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	rate := l.throttle.At(now)
	if l.ceiling > 0 && (rate == 0 || l.ceiling < rate) {
		rate = l.ceiling
	}
	if rate <= 0 {
		l.tokens, l.filled = 0, now
		return 0
	}
	full := float64(rate) * burst.Seconds()
	l.tokens = min(full, l.tokens+now.Sub(l.filled).Seconds()*float64(rate))
	l.filled = now
	need := 0.0
	if patient {
		need = full / 2
	}
	if l.tokens < need {
		return time.Duration((need-l.tokens)/float64(rate)*float64(time.Second)) + time.Millisecond
	}
	l.tokens -= float64(n)
	return 0
}
