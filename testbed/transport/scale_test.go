package transport

import (
	"context"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/agent/ship"
	"github.com/understudy-dr/understudy/controlplane/relay"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// BenchmarkTwoThousandMachines keeps 2,000 agents connected to one relay, each of
// which writes 64 KiB a second in one frame, and reports what that costs both sides
// together and how long a frame takes until it is acknowledged as spooled.
func BenchmarkTwoThousandMachines(b *testing.B) {
	const machines, size = 2000, 64 << 10
	dir, err := os.MkdirTemp(os.Getenv("UNDERSTUDY_BENCH_DIR"), "spool")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	s := newStage(b, func(c *relay.Config) {
		c.Log, c.SpoolDir, c.SpoolLimit, c.Segment = nil, dir, 16<<30, 256<<20
		c.Authorize = nil
	})
	s.vault.Forget()
	agents := make([]*beater, machines)
	for i := range agents {
		j := newJournal(b)
		j.begin(frame.ReasonInitial)
		a := &beater{j: j, sent: map[block.Seq]time.Time{}, size: size}
		agents[i] = a
		a.client, _ = s.ship(j, func(c *ship.Config) { c.Frames, c.OnLogAck, c.Log = a, a.acked, nil })
	}
	eventually(b, "all are connected", func() bool {
		return !slices.ContainsFunc(agents, func(a *beater) bool { return !a.client.Stats().Connected })
	})
	b.ResetTimer()
	before, start := cpu(), time.Now()
	for range b.N {
		round := time.Now()
		for i, a := range agents {
			if i%20 == 0 { // spread over the second
				time.Sleep(time.Until(round.Add(time.Second * time.Duration(i) / machines)))
			}
			a.beat()
		}
	}
	for _, a := range agents {
		eventually(b, "all is acknowledged", func() bool { return a.waiting() == 0 })
	}
	b.StopTimer()
	var took []time.Duration
	for _, a := range agents {
		took = append(took, a.took...)
	}
	slices.Sort(took)
	b.ReportMetric((cpu()-before).Seconds()/time.Since(start).Seconds(), "cpus")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
	b.ReportMetric(float64(s.server.Spool().Disk)/(1<<20), "spool-MiB")
}

// beater is a machine that writes one frame at a time and looks when it is acknowledged.
type beater struct {
	j      *journal
	client *ship.Client
	size   int

	mu   sync.Mutex
	sent map[block.Seq]time.Time
	took []time.Duration
}

func (a *beater) beat() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.j.mu.Lock()
	defer a.j.mu.Unlock()
	seq := a.j.last + 1
	a.sent[seq] = time.Now()
	a.j.frames = a.j.frames[:0]
	a.j.put(a.j.build(frame.KindLog, seq, seq, a.size), nil)
}

// Next implements ship.Frames.
func (a *beater) Next(ctx context.Context, after block.Seq) ([]byte, error) {
	return a.j.Next(ctx, after)
}

func (a *beater) acked(_ context.Context, spooled, _ block.Seq) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for seq, at := range a.sent {
		if seq <= spooled {
			a.took = append(a.took, time.Since(at))
			delete(a.sent, seq)
		}
	}
}

func (a *beater) waiting() int { a.mu.Lock(); defer a.mu.Unlock(); return len(a.sent) }
