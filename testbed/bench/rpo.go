package main

import (
	"context"
	"fmt"
	"time"
)

// rpo measures how old the newest recoverable point is, as the operator sees it, under
// steady churn of mixed data. The policy asks for 3 s.
func rpo(ctx context.Context, b *bench) error {
	return onChurned(ctx, b, "mixed", func(c *churned) error {
		for _, rate := range pick(b, []float64{5, 50, 200}, []float64{50}) {
			if err := c.rpoAt(ctx, rate); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *churned) rpoAt(ctx context.Context, rate float64) error {
	length := pick(c.bench, 40*time.Second, 15*time.Second)
	before := interruptions(c.machine)
	done := make(chan error, 1)
	go func() {
		_, err := c.w.write(ctx, rate*1e6, length)
		done <- err
	}()
	ages, err := c.ages(ctx, done)
	if err != nil {
		return err
	}
	note := ""
	if n := interruptions(c.machine) - before; n > 0 {
		note = fmt.Sprintf("the agent fell back to the dirty map %d times; the age grew meanwhile", n)
	}
	for _, q := range []struct {
		name   string
		share  float64
		target float64
	}{{"p50", 0.5, 0}, {"p99", 0.99, map[float64]float64{50: 3}[rate]}} {
		err := c.add(row{
			ID: fmt.Sprintf("rpo/%.0f/%s", rate, q.name), What: fmt.Sprintf("RPO %s at %.0f MB/s", q.name, rate), Unit: "s", Better: lower,
			Value: spreadOf([]float64{quantile(ages, q.share)}), Rounds: len(ages), Target: q.target, Note: note,
		})
		if err != nil {
			return err
		}
	}
	return c.pointAfter(ctx, c.machine, time.Now())
}

// ages asks ten times a second, until done, how old the newest point is, in seconds.
func (c *churned) ages(ctx context.Context, done <-chan error) (ages []float64, err error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return ages, err
		case <-tick.C:
		}
		v, err := c.view(ctx, c.machine)
		if err != nil {
			return ages, err
		}
		ages = append(ages, time.Since(v.PointTime()).Seconds())
	}
}
