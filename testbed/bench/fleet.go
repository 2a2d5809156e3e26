package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// fleet measures one control plane, with settings as they are when nobody sets any, under
// more and more agents. They are simulated in this process: each has enrolled, and keeps
// its own connections with the agent's own code, but makes its frames out of nothing.
func fleet(ctx context.Context, b *bench) error {
	for _, n := range pick(b, []int{1, 10, 100, 1000}, []int{1, 100}) {
		if err := b.onStage(ctx, func(s *stage) error { return b.fleetOf(ctx, s, n) }); err != nil {
			return fmt.Errorf("%d agents: %w", n, err)
		}
	}
	return nil
}

const (
	mostFrame = 256 * kib // of a busy agent
	beatFrame = 64 * kib  // of one that writes steadily
)

// busyFrame is smaller where so many share what is taken that few frames of the largest
// would be left for each.
func busyFrame(agents int) int {
	if agents > 100 {
		return beatFrame
	}
	return mostFrame
}

func (b *bench) fleetOf(ctx context.Context, s *stage, n int) error {
	length := pick(b, 10*time.Second, 3*time.Second)
	agents, err := s.enrolMany(ctx, n)
	if err != nil {
		return err
	}
	stop, err := connect(ctx, agents)
	if err != nil {
		return err
	}
	defer stop()
	f := &fleetRun{b, s, n, agents}
	if err := f.steady(ctx, length); err != nil {
		return err
	}
	return f.busy(ctx, length)
}

type fleetRun struct {
	*bench
	*stage
	n      int
	agents []*simulated
}

// steady has each agent send a frame a second, and looks how long the acknowledgement
// takes and what the control plane needs for it.
func (f *fleetRun) steady(ctx context.Context, length time.Duration) error {
	before, err := cpuSeconds(f.site.Serve.PID())
	if err != nil {
		return err
	}
	start := time.Now()
	for i, a := range f.agents {
		a.begin(beatFrame, time.Second, start.Add(time.Second*time.Duration(i)/time.Duration(f.n)))
	}
	if err := sleep(ctx, length); err != nil {
		return err
	}
	var waits []float64
	for _, a := range f.agents {
		a.pause()
		waits = append(waits, a.waits()...)
	}
	after, err := cpuSeconds(f.site.Serve.PID())
	if err != nil {
		return err
	}
	note := fmt.Sprintf("a frame of %d KiB a second from each; the control plane used %s of a processor", beatFrame/kib, number((after-before)/length.Seconds()))
	for _, q := range []struct {
		name  string
		share float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		err := f.add(row{
			ID: fmt.Sprintf("fleet/%d/ack-%s", f.n, q.name), What: fmt.Sprintf("%d agents: frame sent to spooled on stable storage, %s", f.n, q.name), Unit: "ms", Better: lower,
			Value: spreadOf([]float64{quantile(waits, q.share) * 1e3}), Rounds: len(waits), Note: note,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// busy has all agents send as much as the control plane takes.
func (f *fleetRun) busy(ctx context.Context, length time.Duration) error {
	for _, a := range f.agents {
		a.begin(busyFrame(f.n), 0, time.Now())
	}
	if err := sleep(ctx, length/4); err != nil { // until the credit is used up
		return err
	}
	var shares []float64
	total := 0.0
	start := time.Now()
	for _, a := range f.agents {
		a.mark()
	}
	if err := sleep(ctx, length); err != nil {
		return err
	}
	for _, a := range f.agents {
		got := float64(a.spooled())
		shares, total = append(shares, got), total+got
	}
	took := time.Since(start).Seconds()
	for _, a := range f.agents {
		a.pause()
	}
	peak, err := memoryPeak(f.site.Serve.PID())
	if err != nil {
		return err
	}
	return f.fileBusy(total/1e6/took, slices.Min(shares)/slices.Max(shares), float64(peak)/mib)
}

func (f *fleetRun) fileBusy(throughput, fairness, peak float64) error {
	for _, r := range []row{
		{ID: "throughput", What: "spooled on stable storage", Unit: "MB/s", Better: higher, Value: spreadOf([]float64{throughput})},
		{ID: "fairness", What: "share of the slowest ÷ of the fastest", Unit: "×", Better: higher, Value: spreadOf([]float64{fairness})},
		{ID: "memory", What: "most memory of the control plane", Unit: "MiB", Better: lower, Value: spreadOf([]float64{peak})},
	} {
		if r.ID == "memory" && f.n == 1000 {
			r.Target = 1024
		}
		r.ID, r.What, r.Rounds = fmt.Sprintf("fleet/%d/%s", f.n, r.ID), fmt.Sprintf("%d agents: %s", f.n, r.What), 1
		r.Note = fmt.Sprintf("frames of %d KiB, incompressible, as fast as the control plane takes them; the agents run on the same processors", busyFrame(f.n)/kib)
		if err := f.add(r); err != nil {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
