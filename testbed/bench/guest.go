package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// guest measures what protection costs whoever writes, on one disk.
type guest struct {
	*bench
	*stage
	id      string // of the medium
	disk    *lab.Disk
	machine *lab.Machine
	jobs    []fioJob
	length  time.Duration // of a sample
	targets map[string]float64
	lost    map[string]int // samples in which an arm fell back to the dirty map
}

func guestMemory(ctx context.Context, b *bench) error {
	return guestOn(ctx, b, "memory", memory("guest"), nil, map[string]float64{"iops": 0.8})
}

// guestDisk has every write reach the real disk before the next one: O_DIRECT and
// O_DSYNC, which the loop device turns into a sync of its file.
func guestDisk(ctx context.Context, b *bench) error {
	return guestOn(ctx, b, "disk", "guest", []string{"--sync=dsync"}, map[string]float64{"iops": 0.97, "p99": 1.1})
}

func guestOn(ctx context.Context, b *bench, id, name string, flags []string, targets map[string]float64) error {
	return b.onStage(ctx, func(s *stage) error {
		d, err := s.disk(ctx, name, pick(b, int64(512*mib), 128*mib))
		if err != nil {
			return err
		}
		w, err := newWriter(d.Device, newPool(false))
		if err != nil {
			return err
		}
		if err := errors.Join(w.fill(), w.close()); err != nil {
			return err
		}
		m, err := s.machine(ctx, "guest", "--ring-bytes", fmt.Sprint(256*mib))
		if err != nil {
			return err
		}
		if err := s.protect(ctx, m, d); err != nil {
			return err
		}
		g := &guest{bench: b, stage: s, id: id, disk: d, machine: m, targets: targets, lost: map[string]int{},
			length: pick(b, 500*time.Millisecond, 300*time.Millisecond),
			jobs: []fioJob{
				{name: "4k-qd1", rw: "randwrite", bs: "4k", depth: 1, more: flags},
				{name: "4k-qd16", rw: "randwrite", bs: "4k", depth: 16, more: flags},
				{name: "1m-seq", rw: "write", bs: "1m", depth: 1, more: flags},
			}}
		return g.measure(ctx)
	})
}

// The arms. off comes twice: what differs between the two is noise.
const (
	off     = "off"
	again   = "off again"
	mapOnly = "map"
	full    = "full"
	shipped = "shipped"
)

func (g *guest) measure(ctx context.Context) error {
	if err := g.withdraw(ctx); err != nil {
		return err
	}
	// One run of fio differs from the next by more than protection costs: which processor
	// its thread and the loop device's come to lie on decides. Only many short ones tell.
	local, err := interleave(ctx, pick(g.bench, 9, 3),
		arm{off, g.unprotected}, arm{mapOnly, g.captured(mapOnly, false)}, arm{full, g.captured(full, true)}, arm{again, g.unprotected})
	if err != nil {
		return err
	}
	// Starting an agent and its first point takes seconds: fewer rounds, and an off of its own.
	whole, err := interleave(ctx, pick(g.bench, 5, 3),
		arm{off, g.unprotected}, arm{shipped, g.protected}, arm{again, g.unprotected})
	if err != nil {
		return err
	}
	for _, j := range g.jobs {
		for _, mode := range []string{mapOnly, full, shipped} {
			got := local
			if mode == shipped {
				got = whole
			}
			for _, figure := range []string{"iops", "p50", "p99"} {
				if err := g.file(got, j.name, mode, figure); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

var modes = map[string]string{mapOnly: "dirty map only", full: "captured in full", shipped: "captured and shipped"}

// file makes the row of one figure of one job in one mode.
func (g *guest) file(got series, job, mode, figure string) error {
	key := job + " " + figure
	plain, protected := got.of(off, key), got.of(mode, key)
	noise := spreadOf(ratios(got.of(again, key), plain))
	r := row{
		ID: fmt.Sprintf("guest/%s/%s/%s/%s", g.id, job, mode, figure), What: fmt.Sprintf("%s, %s %s, %s ÷ unprotected", g.id, job, figure, modes[mode]),
		Unit: "×", Better: lower, Value: spreadOf(ratios(protected, plain)), Noise: &noise, Rounds: len(plain),
		Ours: number(median(protected)) + " µs", Theirs: number(median(plain)) + " µs",
	}
	if figure == "iops" {
		r.Better = higher
		r.Ours, r.Theirs = number(median(protected))+" IOPS", number(median(plain))+" IOPS"
	}
	if mode == full {
		r.Target = g.targets[figure]
	}
	if n := g.lost[mode+" "+job]; n > 0 {
		r.Note = fmt.Sprintf("the ring overflowed in %d of %d samples: those are partly of the dirty map only", n, len(plain))
	}
	return g.add(r)
}

// jobsOn runs all jobs and calls after with the name of each.
func (g *guest) jobsOn(ctx context.Context, after func(job string) error) (sample, error) {
	out := sample{}
	for _, j := range g.jobs {
		got, err := fio(ctx, g.disk.Device, j, g.length)
		if err != nil {
			return nil, err
		}
		for figure, v := range got {
			out[j.name+" "+figure] = v
		}
		if err := after(j.name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (g *guest) unprotected(ctx context.Context, _ int) (sample, error) {
	return g.jobsOn(ctx, func(string) error { return nil })
}

// captured protects the disk by a drain.
func (g *guest) captured(mode string, data bool) func(context.Context, int) (sample, error) {
	return func(ctx context.Context, _ int) (sample, error) {
		d, err := newDrain(ctx, g.Lab, g.disk.Device, data)
		if err != nil {
			return nil, err
		}
		before := int64(0)
		out, err := g.jobsOn(ctx, func(job string) error {
			if n := d.lost.Load(); n > before {
				g.lost[mode+" "+job]++
				before = n
			}
			return nil
		})
		return out, errors.Join(err, d.end())
	}
}

// protected protects the disk by the agent, and has the control plane take what comes.
// An agent that falls back is waited for before the next job.
func (g *guest) protected(ctx context.Context, _ int) (sample, error) {
	start := time.Now()
	if err := errors.Join(g.site.Serve.Signal(syscall.SIGCONT), g.machine.Agent.Start()); err != nil {
		return nil, err
	}
	if err := g.pointAfter(ctx, g.machine, start); err != nil {
		return nil, err
	}
	before := interruptions(g.machine)
	out, err := g.jobsOn(ctx, func(job string) error {
		n := interruptions(g.machine)
		if n == before {
			return nil
		}
		g.lost[shipped+" "+job]++
		before = n
		return g.pointAfter(ctx, g.machine, time.Now())
	})
	return out, errors.Join(err, g.withdraw(ctx))
}

// withdraw takes the protection away without a trace: no agent, nothing in the kernel,
// and a control plane that stands still.
func (g *guest) withdraw(ctx context.Context) error {
	if err := g.machine.Agent.Stop(20 * time.Second); err != nil {
		return err
	}
	return errors.Join(g.machine.Detach(ctx), g.site.Serve.Signal(syscall.SIGSTOP))
}
