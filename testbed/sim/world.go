package sim

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/agent/capture/capturetest"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/wire"
	"github.com/understudy-dr/understudy/pkg/wire/wiretest"
)

// cells are the sizes of the machine's disks.
var cells = []int{72, 40}

// world is one machine, its agent, two relays and a vault, in a bubble of fake time. Its
// methods run in the bubble's first goroutine unless they say otherwise.
type world struct {
	schedule Schedule
	mutant   Mutant
	log      *slog.Logger
	began    time.Time

	machine *machine
	servers []*server
	cloud   *cloud
	due     []restart
	oracle  *oracle
	thinner *thinner
	base    map[block.Epoch][][]byte // for one mutant

	setBack bool        // the machine's clock was
	damaged atomic.Bool // a relay said that its spool is damaged

	mu       sync.Mutex // what other goroutines ask and tell
	rng      *rand.Rand
	current  int // the relay that the agent is sent to
	dialed   *server
	switched bool // there was more than one relay: what one has may be worthless
	wish     desired.State
	lost     float64 // chance that an acknowledgement is lost, or repeated
	slow     time.Duration
	promise  block.Seq // the highest position acknowledged as committed
	failure  string
	trace    []string
	traced   bool
	counts   map[string]int
}

// restart is a process to be started.
type restart struct {
	at    time.Time
	start func() error
}

func newWorld(s Schedule, m Mutant, traced bool) *world {
	w := &world{
		schedule: s, mutant: m, log: slog.New(slog.DiscardHandler), began: time.Now(),
		rng: rand.New(rand.NewPCG(s.Seed, 1)), counts: map[string]int{}, traced: traced, base: map[block.Epoch][][]byte{},
	}
	if traced {
		w.log = slog.New(traceLog{w})
	}
	k := capturetest.New(cells...)
	k.Capacity = s.Capacity
	w.machine = &machine{w: w, kernel: k, ram: newMedia(), disk: newMedia()}
	w.wish = desired.State{Machine: machineID, Disks: k.IDs()}
	w.cloud = newCloud(rand.New(rand.NewPCG(s.Seed, 2)), w.count)
	w.servers = []*server{newServer(w, "one"), newServer(w, "two")}
	return w
}

// live runs the schedule from the beginning to its end.
func (w *world) live() {
	if err := w.createVault(); err != nil {
		w.fail("creating the vault: %v", err)
		return
	}
	w.burst(w.rng, 10, 0)
	w.start(w.servers[0].start)
	w.start(w.machine.start)
	for i, op := range w.schedule.Ops {
		if w.failed() {
			break
		}
		w.note("%d: %s", i, op)
		w.run(op)
	}
	if !w.failed() {
		w.note("everything heals")
		w.heal()
		w.converge()
	}
	w.end()
}

func (w *world) run(op Op) {
	i := slices.IndexFunc(kinds, func(k struct {
		name   string
		weight int
		n      int
		d      time.Duration
		run    func(*world, Op, *rand.Rand)
	}) bool {
		return k.name == op.Kind
	})
	w.count("op: " + op.Kind)
	kinds[i].run(w, op, rand.New(rand.NewPCG(op.Seed, 3)))
}

// end stops everything, so that the bubble can close.
func (w *world) end() {
	w.machine.kernel.Flush()
	w.thinner.end()
	w.machine.stop()
	for _, s := range w.servers {
		s.stop()
	}
}

// pass lets time go by. Processes that die are buried, and those that are due start.
func (w *world) pass(d time.Duration) {
	until := time.Now().Add(d)
	for {
		next := until
		for _, r := range w.due {
			if r.at.Before(next) {
				next = r.at
			}
		}
		t := time.NewTimer(time.Until(next))
		select {
		case <-t.C:
		case <-w.machine.died():
			w.bury(w.machine.stop, w.machine.start)
		case <-w.servers[0].died():
			w.bury(w.servers[0].stop, w.servers[0].start)
		case <-w.servers[1].died():
			w.bury(w.servers[1].stop, w.servers[1].start)
		}
		t.Stop()
		w.startDue()
		if !time.Now().Before(until) {
			return
		}
	}
}

func (m *machine) died() <-chan struct{} {
	if m.agent == nil {
		return nil
	}
	return m.agent.p.died
}

func (s *server) died() <-chan struct{} {
	if s.p == nil {
		return nil
	}
	return s.p.died
}

// bury clears away a dead process and has another start in a while.
func (w *world) bury(stop func(), start func() error) {
	stop()
	w.later(time.Duration(w.rng.IntN(800))*time.Millisecond, start)
}

func (w *world) later(d time.Duration, start func() error) {
	w.due = append(w.due, restart{time.Now().Add(d), start})
}

func (w *world) startDue() {
	now := time.Now()
	due := w.due
	w.due = nil
	for _, r := range due {
		if r.at.After(now) {
			w.due = append(w.due, r)
			continue
		}
		w.start(r.start)
	}
}

// start starts a process; one that cannot is tried again.
func (w *world) start(start func() error) {
	if err := start(); err != nil {
		w.note("a process cannot start: %v", err)
		w.count("start failed")
		w.later(time.Second, start)
	}
}

// fail notes what broke; the first thing counts. Any goroutine may call it.
func (w *world) fail(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	w.note("FAILED: %s", what)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure == "" {
		w.failure = what
	}
}

func (w *world) failed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failure != ""
}

// note adds to the trace. Any goroutine may call it.
func (w *world) note(format string, args ...any) {
	if !w.traced {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, fmt.Sprintf("%9.3fs  ", time.Since(w.began).Seconds())+fmt.Sprintf(format, args...))
}

// count counts what was reached. Any goroutine may call it.
func (w *world) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[what]++
}

// wanted is what the control plane wants of the agent. Any goroutine may call it.
func (w *world) wanted() desired.State {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.wish
	s.Disks = slices.Clone(s.Disks)
	return s
}

// turn is the relay that the agent is to dial; nil if it is down. Any goroutine may
// call it.
func (w *world) turn() *wiretest.Net {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dialed = w.servers[w.current]
	return w.dialed.net.Load()
}

// welcomed judges a relay's welcome: what it acknowledged as spooled it still has, as
// long as its disk lives and no other relay came between. Any goroutine may call it.
func (w *world) welcomed(m wire.Welcome) {
	w.mu.Lock()
	s, acked, excused := w.dialed, w.dialed.acked, w.switched || w.damaged.Load()
	w.mu.Unlock()
	if m.Spooled < acked && !excused {
		w.fail("relay %s acknowledged frames up to %d as spooled and welcomes the agent at %d", s.name, acked, m.Spooled)
	}
}

// acked takes down a promise. Any goroutine may call it.
func (w *world) acked(spooled, committed block.Seq) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dialed.acked = max(w.dialed.acked, spooled)
	w.promise = max(w.promise, committed)
}

// excuse forgets what relays acknowledged: a spool is lost.
func (w *world) excuse() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.servers {
		s.acked = 0
	}
}

// late is how late messages are now, ackFate what happens to the next acknowledgement.
// Any goroutine may call them.
func (w *world) late() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.slow == 0 {
		return 0
	}
	return time.Duration(w.rng.Int64N(int64(w.slow)))
}

func (w *world) ackFate() (lose, repeat bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost == 0 {
		return false, false
	}
	return w.rng.Float64() < w.lost, w.rng.Float64() < w.lost
}

// calm ends every fault that lasts.
func (w *world) calm() {
	w.mu.Lock()
	w.lost, w.slow = 0, 0
	w.mu.Unlock()
	w.cloud.set(mood{})
	w.cloud.SetCapacity(0)
	w.machine.disk.bound(0)
	for _, s := range w.servers {
		s.spool.bound(0)
	}
}

// heal brings everything back that is away.
func (w *world) heal() {
	w.calm()
	w.thinner.end()
	k := w.machine.kernel
	for i := range cells {
		k.Attach(i)
	}
	w.mu.Lock()
	w.wish.Disks = k.IDs()
	w.mu.Unlock()
	w.machine.agent.rewish()
}

// converged is how long everything may take to be well again: the sum of what the
// longest backoffs may take one after another.
const converged = 3 * time.Minute

// converge waits until the newest point is what the disks hold, and judges everything.
func (w *world) converge() {
	w.machine.kernel.Flush()
	until := time.Now().Add(converged)
	for !w.settled() {
		if w.failed() {
			return
		}
		if time.Now().After(until) {
			w.oracle.judge() // a point that is wrong says more than one that does not come
			w.fail("%v after everything is well again the newest point is not what the disks hold: %s", converged, w.standing())
			return
		}
		w.pass(250 * time.Millisecond)
	}
	w.oracle.judge()
}

// settled reports whether all that was written is in the vault, as the agent sees it.
func (w *world) settled() bool {
	a := w.machine.agent
	if a == nil || a.p.alive() != nil {
		return false
	}
	s := a.pipeline.Status()
	if s == nil || s.Phase != desired.PhaseSteady || s.LastSeq == 0 {
		return false
	}
	w.mu.Lock()
	promise := w.promise
	w.mu.Unlock()
	return promise >= w.quiet(a.pipeline.Position()) && w.oracle.newest()
}

// quiet is the position at which everything written before everything healed is in the
// log, for sure: the agent's position one poll later than asked first.
func (w *world) quiet(at block.Position) block.Seq {
	if at.Seq < 2 {
		return 1
	}
	return at.Seq - 1
}

func (w *world) standing() string {
	a := w.machine.agent
	if a == nil {
		return "no agent runs"
	}
	s := a.pipeline.Status()
	if s == nil {
		return "the agent protects nothing"
	}
	for _, r := range w.servers {
		if r.up() {
			st, _ := r.relay.Status(machineID)
			w.note("relay %s: %+v, spool %+v", r.name, st, r.relay.Spool())
		}
	}
	return fmt.Sprintf("phase %s, epoch %d (%s), last %d, spooled %d, committed %d, problem %v; %s", s.Phase, s.Epoch, s.Reason, s.LastSeq, s.Spooled, s.Committed, s.Problem, w.oracle.distance())
}

// createVault makes the vault all processes share.
func (w *world) createVault() error {
	_, err := vault.Create(w.context(), w.cloud.Store, vaultOptions("sim"))
	if err == nil {
		w.oracle, err = newOracle(w)
	}
	return err
}
