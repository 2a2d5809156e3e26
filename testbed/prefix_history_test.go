//go:build testbed

package testbed

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// pool is what points are drawn from: each that the vault ever offered had the same
// chance to get in, when it was new. Those in the pool are locked, so that thinning
// merges what lies around them and must leave them as they are.
type pool struct {
	past   *vault.Machine
	random *rand.Rand

	mu     sync.Mutex
	points []vault.Point
	seen   int // points offered
	last   block.Position
	end    time.Time // of the last point seen
}

const poolShare = 0.25

// fill looks at the points that are new.
func (p *pool) fill(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	points, err := p.past.Points(ctx, time.Time{}, time.Time{})
	if err != nil {
		return err
	}
	for _, q := range points {
		if !p.last.Before(q.Position) {
			continue
		}
		p.seen++
		p.last, p.end = q.Position, q.Time
		if p.random.Float64() >= poolShare {
			continue
		}
		if err := p.past.Lock(ctx, q.Position, ""); errors.Is(err, vault.ErrNoPoint) {
			continue // so busy a machine that thinning was there first
		} else if err != nil {
			return err
		}
		p.points = append(p.points, q)
	}
	return nil
}

// keepFilling does so until ctx ends.
func (p *pool) keepFilling(ctx context.Context) error {
	for {
		if err := p.fill(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(700 * time.Millisecond):
		}
	}
}

// draw takes so many points out of the pool, at random, or all there are.
func (p *pool) draw(n int) []vault.Point {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.random.Shuffle(len(p.points), func(i, j int) { p.points[i], p.points[j] = p.points[j], p.points[i] })
	n = max(0, min(n, len(p.points)))
	drawn := p.points[:n]
	p.points = p.points[n:]
	return drawn
}

// history lets the machine live through all that may befall it, in a random order, and
// then through a quiet while.
func (p *proof) history() {
	p.t.Helper()
	ctx, stop := context.WithCancel(p.t.Context())
	filled := make(chan error, 1)
	go func() { filled <- p.pool.keepFilling(ctx) }()
	defer stop()
	troubles := []func(*proof){
		(*proof).agentKilled, (*proof).controlPlaneKilled, (*proof).ringOverflows, (*proof).journalSpills,
		(*proof).bothKilled, (*proof).killedWhileSpilling, (*proof).lookBack, (*proof).agentKilled, (*proof).controlPlaneKilled,
	}
	length := 2 * time.Minute
	if testing.Short() {
		troubles, length = troubles[:4], 0
	}
	for first := true; first || time.Since(p.started) < length; first = false {
		for _, i := range p.random.Perm(len(troubles)) {
			p.live(p.upTo(2 * time.Second))
			troubles[i](p)
		}
	}
	p.untilProtected()
	p.calm = p.untilPoint(time.Now())
	p.live(controlStretch)
	p.must(p.work.Stop())
	p.untilPoint(time.Now())
	stop()
	p.must(<-filled)
	p.must(p.pool.fill(p.t.Context()))
	p.t.Logf("%d points in the pool of %d, %d values promised", len(p.pool.points), p.pool.seen, p.ledger.Acked())
}

// upTo is a random time, at least a tenth of d.
func (p *proof) upTo(d time.Duration) time.Duration {
	return d/10 + time.Duration(p.random.Int64N(int64(d)*9/10))
}

func (p *proof) anyDisk() *lab.Disk { return p.disks[p.random.IntN(len(p.disks))] }

func (p *proof) agentKilled() {
	p.machine.Agent.Kill()
	p.figures.AgentKills++
	p.live(p.upTo(600 * time.Millisecond))
	p.must(p.machine.Agent.Start())
}

func (p *proof) controlPlaneKilled() {
	p.site.Serve.Kill()
	p.figures.ControlPlaneKills++
	p.live(p.upTo(1500 * time.Millisecond))
	p.must(p.site.Start(p.t.Context()))
}

func (p *proof) bothKilled() {
	p.site.Serve.Kill()
	p.machine.Agent.Kill()
	p.figures.ControlPlaneKills++
	p.figures.AgentKills++
	p.live(p.upTo(500 * time.Millisecond))
	p.must(p.machine.Agent.Start())
	p.must(p.site.Start(p.t.Context()))
}

// ringOverflows has more written than the ring holds, while nobody empties it. New
// points come when a resync of what was lost has ended.
func (p *proof) ringOverflows() {
	before := uint64(p.untilProtected().Protection.Epoch)
	p.must(p.machine.Agent.Signal(syscall.SIGSTOP))
	p.splash(2 * proofRing / mib)
	p.must(p.machine.Agent.Signal(syscall.SIGCONT))
	p.untilEpochAfter(before)
	p.figures.RingOverflows++
}

func (p *proof) journalSpills() {
	p.site.Serve.Kill()
	p.figures.ControlPlaneKills++
	p.untilSpilled()
	p.must(p.site.Start(p.t.Context()))
}

func (p *proof) killedWhileSpilling() {
	p.site.Serve.Kill()
	p.figures.ControlPlaneKills++
	p.untilSpilled()
	p.agentKilled()
	p.live(p.upTo(500 * time.Millisecond))
	p.must(p.site.Start(p.t.Context()))
}

// untilSpilled writes in pieces that the ring takes until frames lie in the spill.
func (p *proof) untilSpilled() {
	p.must(lab.Until(p.t.Context(), 40*time.Second, "frames in the spill", func() (bool, error) {
		p.splash(4)
		spilled, err := p.spilled()
		p.figures.SpillBytes = max(p.figures.SpillBytes, spilled)
		return spilled > 0, err
	}))
	p.figures.Spills++
}

// splash writes so many megabytes to one of the disks and removes them again.
func (p *proof) splash(megabytes int) {
	d := p.anyDisk()
	p.burst(d, megabytes)
	p.must(os.Remove(filepath.Join(d.Mount, "burst")))
}

// spilled is how many bytes lie in the agent's spill.
func (p *proof) spilled() (int64, error) {
	text, err := lab.Metrics(p.t.Context(), "http://"+p.metrics+"/metrics", "")
	if err != nil {
		return 0, err
	}
	found := spillGauge.FindStringSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("the agent does not show its spill")
	}
	n, err := strconv.ParseFloat(found[1], 64)
	return int64(n), err
}

var spillGauge = regexp.MustCompile(`(?m)^understudy_agent_journal_spill_bytes (\S+)$`)

// lookBack recovers two points while life goes on.
func (p *proof) lookBack() {
	p.untilProtected()
	for _, q := range p.pool.draw(2) {
		p.must(p.check(q))
	}
}
