package sim

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/block"
)

// thinner is a process that thins the machine's history, and perhaps dies at it.
type thinner struct {
	w      *world
	p      *process
	cancel context.CancelFunc
	done   chan struct{}
	keep   vault.Retention
	before []vault.Point
	began  time.Time

	// What the run leaves behind.
	after []vault.Point
	ended time.Time
}

// thin applies a retention of some seconds, while everything else goes on.
func (w *world) thin(op Op, rng *rand.Rand) {
	w.thinner.end()
	t := &thinner{w: w, p: newProcess(func() {}), done: make(chan struct{}), before: w.oracle.points(w.oracle.vault), began: time.Now()}
	// What is thinned is older than what the store's listings leave out.
	_, _, _, late := w.cloud.fate()
	t.keep = vault.Retention{All: late + op.D + 200*time.Millisecond, Hourly: time.Hour, Daily: 24 * time.Hour}
	if rng.IntN(4) == 0 {
		t.p.kill(1+op.N, rng.IntN(2) == 0)
	}
	ctx, cancel := context.WithCancel(w.context())
	t.cancel = cancel
	w.thinner = t
	go func() {
		defer close(t.done)
		t.run(ctx)
		t.after, t.ended = w.oracle.anew(), time.Now()
	}()
}

func (t *thinner) run(ctx context.Context) {
	v, err := vault.Open(ctx, t.w.retrying(client{cloud: t.w.cloud, p: t.p}), vaultOptions("thinner"))
	if err != nil {
		return
	}
	m, err := v.Machine(ctx, machineID)
	if err != nil {
		return
	}
	keep := t.keep
	if t.w.mutant.Thin {
		keep.All /= 4
	}
	report, err := m.Thin(ctx, keep)
	if err != nil {
		t.w.count("thinning broken off")
		t.w.note("thinning: %v", err)
	}
	if report.Removed > 0 {
		t.w.count("points thinned away")
	}
	if report.Steps > 0 {
		t.w.count("thinned")
	}
}

// running reports whether it is at work.
func (t *thinner) running() bool {
	if t == nil {
		return false
	}
	select {
	case <-t.done:
		t.settle()
		return false
	default:
		return true
	}
}

// end waits a while for the thinner and then kills it.
func (t *thinner) end() {
	if t == nil {
		return
	}
	select {
	case <-t.done:
	case <-time.After(time.Second):
		t.p.kill(0, false)
		t.cancel()
		<-t.done
	}
	t.settle()
}

// settle judges what the thinning did to the points, once.
func (t *thinner) settle() {
	if t.cancel == nil {
		return
	}
	t.cancel()
	t.cancel = nil
	o := t.w.oracle
	all := slices.Concat(t.before, t.after)
	for _, s := range o.seen {
		all = append(all, s.point)
	}
	slices.SortFunc(all, func(a, b vault.Point) int { return a.Position.Compare(b.Position) })
	all = slices.CompactFunc(all, func(a, b vault.Point) bool { return a.Position == b.Position })
	first, last := kept(t.before, t.keep, t.began), kept(all, t.keep, t.ended)
	offered := map[block.Position]bool{}
	for _, p := range t.after {
		offered[p.Position] = true
	}
	for _, p := range all {
		keep, there := first[p.Position]
		switch {
		case t.w.setBack && !p.Locked: // an age then depends on when it was asked for
			o.may[p.Position] = true
		case there && !keep || !last[p.Position]:
			o.may[p.Position] = true
		case !offered[p.Position] && !o.may[p.Position]:
			t.w.fail("thinning by %v took point %v of %s away, which that retention keeps", t.keep.All, p.Position, o.at(p))
		}
	}
}

// kept are the points, oldest first, that a retention must not let go of: the rule of
// the operator's manual once more. A point's age counts from the newest one, or from now
// where that lies ahead; one from before a clock was set back is as old as what follows.
func kept(points []vault.Point, r vault.Retention, now time.Time) map[block.Position]bool {
	keep := map[block.Position]bool{}
	var at time.Time
	hours, days := map[int64]bool{}, map[int64]bool{}
	for i, p := range slices.Backward(points) {
		if i == len(points)-1 || p.Time.Before(at) {
			at = p.Time
		}
		if i == len(points)-1 && at.Before(now) {
			now = at
		}
		hour, day := at.Unix()/3600, at.Unix()/86400
		age := now.Sub(at)
		keep[p.Position] = p.Locked || age <= r.All || age <= r.Hourly && !hours[hour] || age <= r.Daily && !days[day]
		hours[hour], days[day] = true, true
	}
	return keep
}

// lock keeps one of the points for ever.
func (w *world) lock(_ Op, rng *rand.Rand) {
	points := w.oracle.points(w.oracle.vault)
	if len(points) == 0 || w.thinner.running() {
		return
	}
	m, err := w.oracle.vault.Machine(w.context(), machineID)
	if err != nil {
		w.fail("locking a point: %v", err)
		return
	}
	p := points[rng.IntN(len(points))]
	switch err := m.Lock(w.context(), p.Position, ""); {
	case errors.Is(err, objstore.ErrFull):
		return
	case err != nil:
		w.fail("locking point %v: %v", p.Position, err)
		return
	}
	delete(w.oracle.may, p.Position)
	w.count("point locked")
	w.oracle.judgePoint(p)
}
