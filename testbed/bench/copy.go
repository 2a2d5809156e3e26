package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// copying compares the initial copy of a disk, and bringing it up to date after 1% of
// it has changed. Ours ends when the vault has it and a point of it can be recovered;
// theirs when their result is synced. Source and results lie on the same real disk.
type copying struct {
	*bench
	*stage
	id       string
	src      *source
	data     pool
	peers    []peer
	versions []string
	keepers  []*keeper // of this round
	machine  *lab.Machine
	got      series
}

func copyFull(ctx context.Context, b *bench) error {
	return copyOf(ctx, b, "full", peers, (*stage).fullSource)
}

// copyHalf leaves out the peers that keep history: they are the slowest, and read free
// space like the others.
func copyHalf(ctx context.Context, b *bench) error {
	return copyOf(ctx, b, "half", slices.DeleteFunc(slices.Clone(peers), func(p peer) bool { return p.restore != "" }), (*stage).halfSource)
}

// A whole copy takes ours half a second before the first byte is read and as long after
// the last: on a disk of this size that does not decide. Everybody writes all of it
// twice a round, restic and borg at their pace: more rounds would take too long.
const (
	copySize   = int64(gib)
	copyRounds = 5
)

func copyOf(ctx context.Context, b *bench, id string, against []peer, make func(*stage, context.Context, int64, pool) (*source, error)) error {
	return b.onStage(ctx, func(s *stage) error {
		c := &copying{bench: b, stage: s, id: id, data: newPool(true), got: series{}}
		c.peers, c.versions = present(ctx, against)
		var err error
		if c.src, err = make(s, ctx, pick(b, copySize, 128*mib), c.data); err != nil {
			return err
		}
		for round := range pick(b, copyRounds, 3) {
			if err := c.round(ctx, round); err != nil {
				return err
			}
		}
		return c.file()
	})
}

// Our arms. The name of a peer's catch-up is its name with this suffix.
const (
	ours      = "ours"
	oursHash  = "ours, by hash"
	oursMap   = "ours, by map"
	peerAgain = " again"
	noiseArm  = "nbdcopy once more"
	limitArm  = "limit"
)

// round copies the disk by everybody, changes it, and lets everybody catch up.
func (c *copying) round(ctx context.Context, round int) (err error) {
	if err := c.begin(ctx, round); err != nil {
		return err
	}
	first := []arm{{ours, c.first}}
	again := []arm{{oursHash, c.afterCrash}}
	for _, k := range c.keepers {
		first = append(first, arm{k.name, func(ctx context.Context, _ int) (sample, error) { return k.run(ctx, k.first) }})
		again = append(again, arm{k.name + peerAgain, func(ctx context.Context, _ int) (sample, error) { return k.run(ctx, k.again) }})
		if k.name == "nbdcopy" {
			first = append(first, arm{noiseArm, func(ctx context.Context, _ int) (sample, error) { return k.run(ctx, k.first) }})
		}
	}
	if c.src.used == 1 {
		first = append(first, arm{limitArm, c.limit})
	}
	if err := c.got.turn(ctx, round, first...); err != nil {
		return err
	}
	c.machine.Agent.Kill()
	if err := errors.Join(c.machine.ForgetBoot(ctx), c.src.change(0.01, uint64(2*round), c.data)); err != nil {
		return err
	}
	if err := c.got.turn(ctx, round, again...); err != nil {
		return err
	}
	if err := c.got.turn(ctx, round, arm{oursMap, c.afterOverflow}); err != nil {
		return err
	}
	return c.end(ctx)
}

// begin has a machine that nobody knows yet, and peers that have nothing yet.
func (c *copying) begin(ctx context.Context, round int) error {
	c.keepers = nil
	for _, p := range c.peers {
		k, err := p.start(ctx, c.Path(fmt.Sprintf("%s-%d", p.name, round)), c.src.disk.Device, c.src.size)
		if err != nil {
			return err
		}
		c.keepers = append(c.keepers, k)
	}
	var err error
	// A ring that the change overflows, for the catch-up by dirty map.
	if c.machine, err = c.stage.machine(ctx, fmt.Sprintf("copy-%d", round), "--ring-bytes", fmt.Sprint(mib)); err != nil {
		return err
	}
	if err := c.machine.SetRPO(ctx, 3*time.Second); err != nil {
		return err
	}
	return c.await(ctx, c.machine, "report", func(v seen) bool { return !v.Reported.IsZero() })
}

// end removes what the round made.
func (c *copying) end(ctx context.Context) error {
	if err := c.machine.Agent.Stop(20 * time.Second); err != nil {
		return err
	}
	errs := []error{c.machine.Detach(ctx)}
	for _, k := range c.keepers {
		errs = append(errs, os.RemoveAll(k.dir))
	}
	return errors.Join(errs...)
}

// first is our initial copy: from the operator's command to the first point.
func (c *copying) first(ctx context.Context, _ int) (sample, error) {
	if err := coldCaches(); err != nil {
		return nil, err
	}
	took, err := timed(func() error {
		if err := c.machine.Protect(ctx, c.src.disk); err != nil {
			return err
		}
		return c.epochAfter(ctx, c.machine, 0)
	})
	return sample{"s": took}, err
}

// limit is a copy of all of the disk by the passes that our copy makes of each byte.
func (c *copying) limit(ctx context.Context, _ int) (sample, error) {
	if err := coldCaches(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(c.src.disk.Device, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	l := limit{stage: c.stage, pack: frame.CompressAuto, fetch: f.Read}
	bytes, took, err := l.run(ctx)
	if err == nil && bytes != c.src.size {
		err = fmt.Errorf("%d of %d bytes went through", bytes, c.src.size)
	}
	return sample{"s": took.Seconds()}, errors.Join(err, f.Close())
}

// afterCrash is our catch-up when nobody watched the change: the agent starts, compares
// the disk with the vault by hash and sends what differs.
func (c *copying) afterCrash(ctx context.Context, _ int) (sample, error) {
	v, err := c.view(ctx, c.machine)
	if err != nil {
		return nil, err
	}
	if err := coldCaches(); err != nil {
		return nil, err
	}
	took, err := timed(func() error {
		if err := c.machine.Agent.Start(); err != nil {
			return err
		}
		return c.epochAfter(ctx, c.machine, v.epoch())
	})
	return sample{"s": took}, err
}

// afterOverflow is our catch-up when the kernel watched but the agent could not take the
// data: it reads what the dirty map names.
func (c *copying) afterOverflow(ctx context.Context, round int) (sample, error) {
	v, err := c.view(ctx, c.machine)
	if err != nil {
		return nil, err
	}
	before := interruptions(c.machine)
	if err := c.machine.Agent.Signal(syscall.SIGSTOP); err != nil {
		return nil, err
	}
	if err := errors.Join(c.src.change(0.01, uint64(2*round+1), c.data), coldCaches()); err != nil {
		return nil, err
	}
	took, err := timed(func() error {
		if err := c.machine.Agent.Signal(syscall.SIGCONT); err != nil {
			return err
		}
		return c.epochAfter(ctx, c.machine, v.epoch())
	})
	if err == nil && interruptions(c.machine) == before {
		err = errors.New("the ring took the whole change: there was nothing to catch up with")
	}
	return sample{"s": took}, err
}

// file makes the rows: how many times as fast as each peer, and as the fastest of them.
func (c *copying) file() error {
	noise := spreadOf(ratios(c.got.of(noiseArm, "s"), c.got.of("nbdcopy", "s")))
	target := 0.9
	if c.id == "half" {
		target = 0.9 / c.src.used
	}
	for _, part := range []struct {
		name, arm, suffix, what string
		target                  float64
	}{
		{"initial", ours, "", "initial copy", target},
		{"again-hash", oursHash, peerAgain, "1% changed unseen: compared by hash", 0},
		{"again-map", oursMap, peerAgain, "1% changed, known by the dirty map", 0},
	} {
		mine := c.got.of(part.arm, "s")
		fastest := make([]float64, len(mine))
		for i := range fastest {
			fastest[i] = math.Inf(1)
		}
		r := row{Unit: "×", Better: higher, Noise: &noise, Rounds: len(mine), Ours: number(median(mine)) + " s", Note: c.src.String()}
		for i, p := range c.peers {
			theirs := c.got.of(p.name+part.suffix, "s")
			for j, s := range theirs {
				fastest[j] = min(fastest[j], s)
			}
			script := p.first
			if part.suffix != "" {
				script = p.again
			}
			r.ID, r.What = fmt.Sprintf("copy/%s/%s/%s", c.id, part.name, p.name), fmt.Sprintf("%s disk, %s, speed ÷ %s", c.id, part.what, p.name)
			r.Value, r.Theirs, r.Tools = spreadOf(ratios(theirs, mine)), number(median(theirs))+" s", []string{c.versions[i] + ": " + strings.TrimSuffix(script, durable)}
			if err := c.add(r); err != nil {
				return err
			}
		}
		if part.arm == ours && c.src.used == 1 {
			floor := c.got.of(limitArm, "s")
			r.ID, r.What, r.Tools = fmt.Sprintf("copy/%s/%s/limit", c.id, part.name), fmt.Sprintf("%s disk, %s, speed ÷ what these processors carry through the passes that each byte needs", c.id, part.what), nil
			r.Value, r.Theirs = spreadOf(ratios(floor, mine)), number(median(floor))+" s"
			if err := c.add(r); err != nil {
				return err
			}
			r.ID, r.What, r.Ours = fmt.Sprintf("copy/%s/%s/limit-fastest", c.id, part.name), fmt.Sprintf("%s disk, that limit's speed ÷ the fastest of the peers", c.id), number(median(floor))+" s"
			r.Value, r.Theirs = spreadOf(ratios(fastest, floor)), number(median(fastest))+" s"
			if err := c.add(r); err != nil {
				return err
			}
			r.Ours = number(median(mine)) + " s"
		}
		if len(c.peers) == 0 {
			continue
		}
		r.ID, r.What, r.Tools, r.Target = fmt.Sprintf("copy/%s/%s/fastest", c.id, part.name), c.id+" disk, "+part.what+", speed ÷ the fastest of them", nil, part.target
		r.Value, r.Theirs = spreadOf(ratios(fastest, mine)), number(median(fastest))+" s"
		if err := c.add(r); err != nil {
			return err
		}
	}
	return nil
}
