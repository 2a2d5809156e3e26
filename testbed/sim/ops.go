package sim

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

func (w *world) context() context.Context { return context.Background() }

// write is a burst of writes, some of which take their time to reach the disk.
func (w *world) write(op Op, rng *rand.Rand) { w.burst(rng, 1+op.N, op.D) }

// flood is more than the ring takes between two looks.
func (w *world) flood(op Op, rng *rand.Rand) { w.burst(rng, w.schedule.Capacity/2+op.N, 0) }

func (w *world) burst(rng *rand.Rand, n int, gap time.Duration) {
	for range n {
		w.writeOnce(rng)
		if gap > 0 {
			w.pass(time.Duration(rng.Int64N(int64(gap))))
		}
	}
}

func (w *world) writeOnce(rng *rand.Rand) {
	k := w.machine.kernel
	disk := rng.IntN(len(cells))
	op := frame.OpWrite
	switch rng.IntN(12) {
	case 0:
		op = frame.OpDiscard
	case 1:
		op = frame.OpZero
	}
	var after time.Duration
	if rng.IntN(3) == 0 {
		after = time.Duration(1+rng.IntN(120)) * time.Millisecond
	}
	cell, n, parts := rng.IntN(k.Cells(disk)), 1+rng.IntN(8), 1+rng.IntN(3)
	w.note("    %s cells %d..%d of disk %d in %d records, done after %v", op, cell, cell+n-1, disk, parts, after)
	k.Write(disk, cell, n, parts, op, after)
}

func (w *world) idle(op Op, _ *rand.Rand) { w.pass(op.D) }

func (w *world) lookOp(op Op, rng *rand.Rand) { w.oracle.look(rng, 1+op.N) }

func (w *world) killAgent(op Op, rng *rand.Rand) {
	if a := w.machine.agent; a != nil {
		a.p.kill(op.N, rng.IntN(2) == 0)
		w.burst(rng, 4, 20*time.Millisecond)
	}
	w.pass(op.D)
}

func (w *world) stopAgent(op Op, _ *rand.Rand) {
	if w.machine.agent == nil {
		return
	}
	w.machine.stop()
	w.later(op.D, w.machine.start)
}

// cutAgentPower ends the machine: its kernel and what it had in memory are gone, and of
// what it was writing some.
func (w *world) cutAgentPower(op Op, rng *rand.Rand) {
	m := w.machine
	if m.agent != nil {
		m.agent.p.kill(op.N, rng.IntN(2) == 0)
		w.burst(rng, 3, 10*time.Millisecond)
	}
	if m.agent != nil {
		m.agent.p.kill(0, false)
		w.bury(m.stop, m.start)
	}
	m.kernel.PowerCut(rng)
	m.ram, m.intact = newMedia(), false
	m.disk.powerCut(rng)
	w.burst(rng, rng.IntN(6), 0) // before the agent's start
	w.pass(op.D)
}

// serving is the relay whose turn it is; nil if it is down.
func (w *world) serving() *server {
	if s := w.servers[w.current]; s.up() {
		return s
	}
	return nil
}

func (w *world) killRelay(op Op, rng *rand.Rand) {
	if s := w.serving(); s != nil {
		s.p.kill(op.N, rng.IntN(2) == 0)
		w.burst(rng, 4, 20*time.Millisecond)
	}
	w.pass(op.D)
}

func (w *world) stopRelay(op Op, _ *rand.Rand) {
	if s := w.serving(); s != nil {
		s.stop()
		w.later(op.D, s.start)
	}
}

func (w *world) cutRelayPower(op Op, rng *rand.Rand) {
	w.endRelay(op, rng, func(s *server) { s.spool.powerCut(rng) })
}

func (w *world) loseSpool(op Op, rng *rand.Rand) {
	w.endRelay(op, rng, func(s *server) {
		s.spool = newMedia()
		w.excuse()
	})
}

// endRelay kills the relay at some effect of it and does something to its disk.
func (w *world) endRelay(op Op, rng *rand.Rand, damage func(*server)) {
	s := w.serving()
	if s == nil {
		return
	}
	p := s.p
	p.kill(op.N, rng.IntN(2) == 0)
	w.burst(rng, 4, 20*time.Millisecond)
	if s.p == p {
		p.kill(0, false)
		w.bury(s.stop, s.start)
	}
	if s.p == nil { // and no other runs yet
		damage(s)
	}
	w.pass(op.D)
}

// switchRelay sends the agent to the other relay, while the one that it leaves goes on
// with what it has.
func (w *world) switchRelay(Op, *rand.Rand) {
	w.mu.Lock()
	w.current, w.switched = 1-w.current, true
	s := w.servers[w.current]
	w.mu.Unlock()
	if s.fresh {
		w.start(s.start)
	}
	w.machine.agent.cut()
}

func (w *world) cutLink(Op, *rand.Rand) { w.machine.agent.cut() }

func (w *world) lossyAcks(op Op, _ *rand.Rand) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = float64(op.N) / 100
}

func (w *world) slowNet(op Op, _ *rand.Rand) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slow = op.D
}

func (w *world) storeFails(op Op, _ *rand.Rand) { w.cloud.set(mood{Fails: float64(op.N) / 100}) }
func (w *world) storeAmbiguous(op Op, _ *rand.Rand) {
	w.cloud.set(mood{Ambiguous: float64(op.N) / 100})
}
func (w *world) storeSlow(op Op, _ *rand.Rand) { w.cloud.set(mood{Slow: op.D}) }
func (w *world) storeLate(op Op, _ *rand.Rand) { w.cloud.set(mood{Late: op.D}) }
func (w *world) storeFull(Op, *rand.Rand)      { w.cloud.SetCapacity(1) }

func (w *world) spoolFull(Op, *rand.Rand) {
	for _, s := range w.servers {
		s.spool.bound(1)
	}
}

func (w *world) agentDiskFull(Op, *rand.Rand) { w.machine.disk.bound(1) }

// jump sets the machine's clock forward, or back: by less, because here the agent's
// pauses go by the same clock, while the real one's are monotonic.
func (w *world) jump(op Op, rng *rand.Rand) {
	by := time.Duration(op.N) * time.Second
	if rng.IntN(2) == 0 {
		by, w.setBack = -by/600, true
	}
	w.machine.kernel.Jump(by)
}

func (w *world) grow(op Op, rng *rand.Rand) {
	w.machine.kernel.Grow(rng.IntN(len(cells)), 4+op.N)
}

// detach takes a disk away for a while; sometimes it comes back with other content.
func (w *world) detach(op Op, rng *rand.Rand) {
	k, disk := w.machine.kernel, op.N%len(cells)
	k.Detach(disk)
	w.machine.agent.rewish()
	w.burst(rng, 3, op.D/3+1)
	if rng.IntN(2) == 0 {
		k.Attach(disk, rng.IntN(40), rng.IntN(40))
	} else {
		k.Attach(disk)
	}
	w.machine.agent.rewish()
}

// unprotect leaves the second disk out for a while.
func (w *world) unprotect(op Op, rng *rand.Rand) {
	ids := w.machine.kernel.IDs()
	w.want(func(s *desired.State) { s.Disks = ids[:1] })
	w.burst(rng, 4, op.D/4+1)
	w.want(func(s *desired.State) { s.Disks = ids })
}

func (w *world) resyncOp(Op, *rand.Rand) { w.want(func(s *desired.State) { s.Resync++ }) }

func (w *world) want(change func(*desired.State)) {
	w.mu.Lock()
	change(&w.wish)
	w.mu.Unlock()
	w.machine.agent.rewish()
}
