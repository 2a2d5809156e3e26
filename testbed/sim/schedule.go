package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Schedule is one life of a machine, its relays and its vault: all that a seed decides.
// What is left to chance within an operation comes from the operation's own seed, so
// that others can be taken out of the schedule without changing it.
type Schedule struct {
	Seed     uint64
	Capacity int   // records in the ring
	Memory   int64 // bytes of each stage of the journal
	Spill    bool  // it has a disk stage
	Ops      []Op
}

// Op is one thing that happens.
type Op struct {
	Kind string
	N    int           // how much; its meaning depends on the kind
	D    time.Duration // how long, or how late
	Seed uint64
}

func (o Op) String() string {
	s := o.Kind
	if o.N != 0 {
		s += fmt.Sprintf(" %d", o.N)
	}
	if o.D != 0 {
		s += " " + o.D.String()
	}
	return s
}

// String is the schedule as a person reads it.
func (s Schedule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: a ring of %d records, a journal of %d bytes, with a disk stage: %v", s.Seed, s.Capacity, s.Memory, s.Spill)
	for i, o := range s.Ops {
		fmt.Fprintf(&b, "\n  %2d  %s", i, o)
	}
	return b.String()
}

// kinds are the operations: how often each comes, and its bounds.
var kinds = []struct {
	name   string
	weight int
	n      int           // N is below
	d      time.Duration // D is below
	run    func(*world, Op, *rand.Rand)
}{
	{"write", 30, 12, 30 * time.Millisecond, (*world).write},
	{"flood", 3, 40, 0, (*world).flood},
	{"pass", 10, 0, 1500 * time.Millisecond, (*world).idle},
	{"look", 5, 4, 0, (*world).lookOp},
	{"agent: kill", 5, 50, time.Second, (*world).killAgent},
	{"agent: stop", 1, 0, time.Second, (*world).stopAgent},
	{"agent: power cut", 2, 20, time.Second, (*world).cutAgentPower},
	{"relay: kill", 4, 30, time.Second, (*world).killRelay},
	{"relay: stop", 1, 0, time.Second, (*world).stopRelay},
	{"relay: power cut", 4, 30, time.Second, (*world).cutRelayPower},
	{"relay: spool lost", 2, 10, time.Second, (*world).loseSpool},
	{"relay: switch", 3, 0, 0, (*world).switchRelay},
	{"net: cut", 3, 0, 0, (*world).cutLink},
	{"net: lossy", 2, 100, 0, (*world).lossyAcks},
	{"net: slow", 2, 0, 200 * time.Millisecond, (*world).slowNet},
	{"store: fails", 2, 60, 0, (*world).storeFails},
	{"store: ambiguous", 2, 60, 0, (*world).storeAmbiguous},
	{"store: slow", 1, 0, 700 * time.Millisecond, (*world).storeSlow},
	{"store: lists late", 1, 0, 3 * time.Second, (*world).storeLate},
	{"store: full", 1, 0, 0, (*world).storeFull},
	{"spool: disk full", 2, 0, 0, (*world).spoolFull},
	{"agent: disk full", 1, 0, 0, (*world).agentDiskFull},
	{"all well", 6, 0, 0, func(w *world, _ Op, _ *rand.Rand) { w.calm() }},
	{"clock", 2, 7200, 0, (*world).jump},
	{"thin", 5, 30, 3 * time.Second, (*world).thin},
	{"lock", 2, 0, 0, (*world).lock},
	{"disk: grow", 1, 12, 0, (*world).grow},
	{"disk: detach", 1, 2, 3 * time.Second, (*world).detach},
	{"disk: unprotect", 1, 0, 2 * time.Second, (*world).unprotect},
	{"resync", 1, 0, 0, (*world).resyncOp},
}

// NewSchedule draws the schedule of a seed.
func NewSchedule(seed uint64) Schedule {
	rng := rand.New(rand.NewPCG(seed, 0x5eed))
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	s := Schedule{Seed: seed, Capacity: 12 + rng.IntN(60), Memory: 8 << 10 << rng.IntN(4), Spill: rng.IntN(3) == 0}
	for range 10 + rng.IntN(20) {
		pick := rng.IntN(total)
		for _, k := range kinds {
			if pick -= k.weight; pick >= 0 {
				continue
			}
			o := Op{Kind: k.name, Seed: rng.Uint64()}
			if k.n > 0 {
				o.N = rng.IntN(k.n)
			}
			if k.d > 0 {
				o.D = time.Duration(rng.Int64N(int64(k.d))).Round(time.Millisecond)
			}
			s.Ops = append(s.Ops, o)
			break
		}
	}
	return s
}
