package sim

import (
	"fmt"
	"strings"
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

func (r Result) String() string {
	return fmt.Sprintf("%s\n%s\n\n%s", r.Schedule, strings.Join(r.Trace, "\n"), r.Failure)
}

// Run lives through a schedule in a bubble of fake time. With a trace it is slower.
func Run(t *testing.T, s Schedule, m Mutant, traced bool) (r Result) {
	r.Schedule = s
	defer func() {
		if p := recover(); p != nil {
			r.Failure = fmt.Sprintf("panic: %v", p)
		}
	}()
	synctest.Test(t, func(*testing.T) {
		w := newWorld(s, m, traced)
		w.live()
		r.Failure, r.Trace, r.Counts, r.Lasted = w.failure, w.trace, w.counts, time.Since(w.began)
	})
	return r
}
