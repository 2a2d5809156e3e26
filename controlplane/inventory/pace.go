package inventory

import (
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// What one machine's agent may say: far more than a healthy one has to, far less than
// what would fill the disk. Whoever took over a machine speaks in its name.
const (
	reportsEach  = 200 * time.Millisecond // on average
	reportsBurst = 50
	eventsEach   = 500 * time.Millisecond // on average
	eventsBurst  = 1000
)

// pace is how much a machine's agent has said lately.
type pace struct {
	reports, events bucket
	dropped         int // events, since the operator was told
	told            time.Time
}

// bucket fills by one each interval, up to its size.
type bucket struct {
	level float64
	at    time.Time
}

// take takes up to n out of the bucket and says how many it got.
func (b *bucket) take(now time.Time, n int, each time.Duration, size float64) int {
	switch passed := now.Sub(b.at); {
	case b.at.IsZero() || passed < 0: // new, or the clock was set back
		b.level = size
	default:
		b.level = min(size, b.level+float64(passed)/float64(each))
	}
	b.at = now
	got := min(n, int(b.level))
	b.level -= float64(got)
	return got
}

// restrain refuses a report too many, and takes out of one the events that are.
func (inv *Inventory) restrain(machine block.MachineID, r *desired.Report) error {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	p := inv.paces[machine]
	if p == nil {
		p = &pace{}
		inv.paces[machine] = p
	}
	now := inv.now()
	if p.reports.take(now, 1, reportsEach, reportsBurst) == 0 {
		return problem.New(problem.TooMany, "look at what runs as its agent", "machine %s reports more than %d times a second", machine, time.Second/reportsEach)
	}
	got := p.events.take(now, len(r.Events), eventsEach, eventsBurst)
	p.dropped += len(r.Events) - got
	r.Events = r.Events[:got]
	if p.dropped > 0 && now.Sub(p.told).Abs() >= tellEvery {
		r.Events = append(r.Events[:got:got], desired.Event{Type: "events-dropped", Severity: desired.Warning,
			Message: fmt.Sprintf("%d events of machine %s were dropped: there were too many", p.dropped, r.Host.Hostname)})
		p.dropped, p.told = 0, now
	}
	return nil
}
