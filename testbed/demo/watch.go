package main

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// sampleEvery is how often the RPO is taken; a line shows each second.
const sampleEvery = 250 * time.Millisecond

// watch follows the RPO of a machine as its operator sees it.
type watch struct {
	machine *lab.Machine
	ledger  *lab.Ledger
	newest  time.Time       // the newest point known
	rpo     []time.Duration // samples

	before int64 // captured by earlier lives of the agent, bytes
	life   int64 // captured by this one, which counts from zero
}

func newWatch(m *lab.Machine, l *lab.Ledger) *watch { return &watch{machine: m, ledger: l} }

// run watches for so long.
func (w *watch) run(ctx context.Context, long time.Duration) error {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	end, line := time.Now().Add(long), time.Now()
	for time.Now().Before(end) {
		v, err := w.machine.Show(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		age := w.sample(v, time.Now())
		if !time.Now().Before(line) {
			line = line.Add(time.Second)
			w.print(v, age, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// sample takes the age of the newest point. While nobody answers, the newest one known
// before still exists and gets older: an outage is not left out of the figures.
func (w *watch) sample(v lab.View, now time.Time) time.Duration {
	if t := v.PointTime(); t.After(w.newest) {
		w.newest = t
	}
	if p := v.Protection; p != nil {
		if p.Captured < w.life {
			w.before += w.life
		}
		w.life = p.Captured
	}
	age := now.Sub(w.newest)
	w.rpo = append(w.rpo, age)
	return age
}

func (w *watch) print(v lab.View, age time.Duration, err error) {
	state := v.Status.State
	if err != nil {
		state = "(the control plane does not answer)"
	}
	tell("%s   RPO %4.1f s   %7d values acknowledged   %s", time.Now().Format("15:04:05"), age.Seconds(), w.ledger.Acked(), state)
}

// captured is what the agent captured, over all its lives, as far as it was reported.
func (w *watch) captured() int64 { return w.before + w.life }

// percentile of all samples, in milliseconds.
func (w *watch) percentile(p float64) int64 {
	if len(w.rpo) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(w.rpo))
	i := int(math.Ceil(p/100*float64(len(sorted)))) - 1
	return sorted[max(i, 0)].Milliseconds()
}

func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*100) / 100 }
