package sim

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Result is what became of one schedule.
type Result struct {
	Schedule Schedule
	Failure  string // empty if everything held
	Trace    []string
	Counts   map[string]int
	Lasted   time.Duration // in the bubble's time
}

// String is a failure as a person reads it.
func (r Result) String() string {
	return fmt.Sprintf("%s\n\n%s\n\n%s", r.Schedule, strings.Join(r.Trace, "\n"), r.Failure)
}

// Run lives through a schedule in a bubble of fake time. A trace makes it slower.
func Run(t *testing.T, s Schedule, m Mutant, traced bool) (r Result) {
	r.Schedule = s
	var w *world
	defer func() {
		if p := recover(); p != nil { // above all: goroutines that are left, all waiting
			r.Failure = fmt.Sprintf("panic: %v", p)
			if w != nil {
				r.Trace = w.trace
			}
		}
	}()
	synctest.Test(t, func(*testing.T) {
		w = newWorld(s, m, traced)
		w.live()
		r.Failure, r.Trace, r.Counts, r.Lasted = w.failure, w.trace, w.counts, time.Since(w.began)
	})
	return r
}

// Tally sums up many schedules.
type Tally struct {
	First             uint64 // seed
	Schedules, Failed int
	Seconds, CPU      float64        // real, and of all workers
	Lived             time.Duration  // fake, of all schedules together
	Counts            map[string]int // what was reached, and how often
}

// hung is how long a schedule may take in real time: a goroutine that holds a lock and
// waits for time keeps the bubble's clock from going on.
const hung = time.Minute

// RunAll lives through the schedules of seeds from first on, on as many workers as there
// are CPUs, until each takes its turn or done says that it is enough.
func RunAll(t *testing.T, first uint64, n int, m Mutant, done func(Result) bool) Tally {
	tally := Tally{First: first, Counts: map[string]int{}}
	start := time.Now()
	var next atomic.Uint64
	var enough atomic.Bool
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !enough.Load() {
				i := next.Add(1) - 1
				if i >= uint64(n) {
					return
				}
				s := NewSchedule(first + i)
				alarm := time.AfterFunc(hung, func() { panic(fmt.Sprintf("sim: seed %d has hung for %v", s.Seed, hung)) })
				r := Run(t, s, m, false)
				alarm.Stop()
				mu.Lock()
				tally.add(r)
				if done(r) {
					enough.Store(true)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	tally.Seconds = time.Since(start).Seconds()
	return tally
}

func (y *Tally) add(r Result) {
	y.Schedules++
	if r.Failure != "" {
		y.Failed++
	}
	y.Lived += r.Lasted
	for k, n := range r.Counts {
		y.Counts[k] += n
	}
}
