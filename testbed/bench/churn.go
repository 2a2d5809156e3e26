package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// churned is a machine whose disk in memory is written to at a steady rate, with the
// agent's and the control plane's settings as they are when nobody sets any.
type churned struct {
	*bench
	*stage
	machine *lab.Machine
	w       *writer
	data    string
}

func onChurned(ctx context.Context, b *bench, data string, f func(*churned) error) error {
	return b.onStage(ctx, func(s *stage) error {
		d, err := s.disk(ctx, memory("churn"), pick(b, int64(gib), 512*mib))
		if err != nil {
			return err
		}
		w, err := newWriter(d.Device, newPool(data != "raw"))
		if err != nil {
			return err
		}
		defer w.close()
		if err := w.fill(); err != nil {
			return err
		}
		m, err := s.machine(ctx, "churn", "--spill-bytes", fmt.Sprint(gib))
		if err != nil {
			return err
		}
		if err := s.protect(ctx, m, d); err != nil {
			return err
		}
		return f(&churned{b, s, m, w, data})
	})
}

// churn measures what churn a machine holds, and what each GiB of it costs.
func churn(data string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		return onChurned(ctx, b, data, func(c *churned) error {
			for _, rate := range costRates {
				if err := c.cost(ctx, rate); err != nil {
					return err
				}
			}
			return c.held(ctx)
		})
	}
}

// churnRates are tried upwards, MB/s.
var churnRates = []float64{50, 100, 150, 200, 250, 300, 350, 400, 450, 500, 600, 800, 1000}

// held finds the highest rate that is kept up without one fallback to the dirty map.
func (c *churned) held(ctx context.Context) error {
	tryFor, holdFor := pick(c.bench, 3*time.Second, 2*time.Second), pick(c.bench, 20*time.Second, 5*time.Second)
	highest, why := 0, ""
	for i, rate := range churnRates {
		ok, reason, err := c.try(ctx, rate, tryFor)
		if err != nil {
			return err
		}
		if !ok {
			why = reason
			break
		}
		highest = i
	}
	best := 0.0
	for ; highest >= 0; highest-- { // what was held for a moment need not hold for long
		ok, reason, err := c.try(ctx, churnRates[highest], holdFor)
		if err != nil {
			return err
		}
		if ok {
			best = churnRates[highest]
			break
		}
		why = reason
	}
	err := c.add(row{
		ID: "churn/" + c.data + "/held", What: fmt.Sprintf("churn held for %s without falling back, %s data", holdFor, c.data),
		Unit: "MB/s", Better: higher, Value: spreadOf([]float64{best}), Rounds: 1, Target: 500, Note: "the next step failed: " + why,
	})
	if err != nil {
		return err
	}
	return c.ofLimit(ctx, best)
}

// ofLimit compares the churn held with what the same processors carry when they do
// nothing but what each byte needs.
func (c *churned) ofLimit(ctx context.Context, held float64) error {
	d, err := c.disk(ctx, memory("limit"), c.w.size)
	if err != nil {
		return err
	}
	w, err := newWriter(d.Device, c.w.data)
	if err != nil {
		return err
	}
	defer w.close()
	var most []float64
	for range pick(c.bench, 5, 3) {
		end := time.Now().Add(pick(c.bench, 5*time.Second, 2*time.Second))
		l := limit{stage: c.stage, pack: frame.CompressNever, fetch: func(p []byte) (int, error) {
			if time.Now().After(end) {
				return 0, io.EOF
			}
			return len(p), w.fetch(p)
		}}
		bytes, took, err := l.run(ctx)
		if err != nil {
			return err
		}
		most = append(most, float64(bytes)/1e6/took.Seconds())
	}
	name := "churn/" + c.data
	err = c.add(row{
		ID: name + "/limit", What: "what these processors carry uncompressed, writer included, through the passes that each byte needs and nothing else",
		Unit: "MB/s", Better: higher, Value: spreadOf(most), Rounds: len(most),
	})
	share := make([]float64, len(most))
	for i, m := range most {
		share[i] = held / m
	}
	return errors.Join(err, c.add(row{
		ID: name + "/of-limit", What: "churn held ÷ that limit", Unit: "×", Better: higher, Value: spreadOf(share), Rounds: len(share),
		Ours: number(held) + " MB/s", Theirs: number(median(most)) + " MB/s",
	}))
}

// try writes at a rate for so long and lets the machine settle. held: nothing was
// lost and the rate was reached; otherwise why says what happened.
func (c *churned) try(ctx context.Context, rate float64, length time.Duration) (held bool, why string, err error) {
	before := interruptions(c.machine)
	written, err := c.w.write(ctx, rate*1e6, length)
	if err != nil {
		return false, "", err
	}
	if err := c.pointAfter(ctx, c.machine, time.Now()); err != nil {
		return false, "", err
	}
	reached := float64(written) / 1e6 / length.Seconds()
	switch {
	case interruptions(c.machine) > before:
		return false, fmt.Sprintf("at %s MB/s the agent fell back to the dirty map", number(rate)), nil
	case reached < 0.97*rate:
		return false, fmt.Sprintf("at %s MB/s the disk under the writer took %s MB/s, beside everything else on these processors", number(rate), number(reached)), nil
	}
	return true, "", nil
}

// costRates are churns at which the cost is measured, MB/s: what both sides hold easily,
// where much of it is waking up, and what keeps them busy.
var costRates = []float64{50, 200}

// cost measures the processor time of both sides for a GiB of churn, from the write to
// the commit.
func (c *churned) cost(ctx context.Context, rate float64) error {
	length := pick(c.bench, 3*time.Second, 2*time.Second)
	var agent, control []float64
	for range pick(c.bench, 5, 3) {
		a, r, err := c.costOnce(ctx, rate, length)
		if err != nil {
			return err
		}
		agent, control = append(agent, a), append(control, r)
	}
	for _, side := range []struct {
		name string
		cost []float64
	}{{"agent", agent}, {"relay", control}} {
		err := c.add(row{
			ID: fmt.Sprintf("churn/%s/cpu-%s-%.0f", c.data, side.name, rate), What: fmt.Sprintf("processor time of the %s per GiB of churn at %.0f MB/s, %s data", side.name, rate, c.data),
			Unit: "CPU-s/GiB", Better: lower, Value: spreadOf(side.cost), Rounds: len(side.cost),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *churned) costOnce(ctx context.Context, rate float64, length time.Duration) (agent, control float64, err error) {
	a0, r0, err := c.used()
	if err != nil {
		return 0, 0, err
	}
	written, err := c.w.write(ctx, rate*1e6, length)
	if err == nil {
		err = c.pointAfter(ctx, c.machine, time.Now())
	}
	if err != nil {
		return 0, 0, err
	}
	a1, r1, err := c.used()
	gibs := float64(written) / gib
	return (a1 - a0) / gibs, (r1 - r0) / gibs, err
}

// used is the processor time so far of the agent and of the control plane.
func (c *churned) used() (agent, control float64, err error) {
	agent, err1 := cpuSeconds(c.machine.Agent.PID())
	control, err2 := cpuSeconds(c.site.Serve.PID())
	return agent, control, errors.Join(err1, err2)
}
