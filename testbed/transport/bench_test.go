package transport

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/agent/ship"
	"github.com/understudy-dr/understudy/controlplane/relay"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// cpu is the processor time of the whole process: agent, relay and vault double.
func cpu() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// source makes log frames of one size as fast as they are asked for, out of few that
// lie ready; it is no journal, so that the benchmark measures the way behind one.
type source struct {
	j    *journal
	size int
	left int
}

func (s *source) Next(ctx context.Context, after block.Seq) ([]byte, error) {
	s.j.mu.Lock()
	defer s.j.mu.Unlock()
	if after == 0 {
		s.j.epoch = 1
		return frame.AppendMark(nil, s.j.machine, 1, 1, time.Now(), frame.Mark{Type: frame.MarkEpochBegin, Reason: frame.ReasonInitial})
	}
	if int(after) > s.left {
		s.j.mu.Unlock()
		<-ctx.Done()
		s.j.mu.Lock()
		return nil, ctx.Err()
	}
	return s.j.build(frame.KindLog, after+1, after+1, s.size), nil
}

// BenchmarkWay moves log frames from agents over loopback through the relay's spool,
// synced on a real disk, into a vault that checks and forgets them.
func BenchmarkWay(b *testing.B) {
	for _, c := range []struct {
		by       wire.Transport
		machines int
		size     int
	}{{wire.TCP, 1, 1 << 20}, {wire.QUIC, 1, 1 << 20}, {wire.TCP, 16, 1 << 20}, {wire.TCP, 16, 64 << 10}} {
		b.Run(fmt.Sprintf("%s/machines=%d/frame=%dKiB", c.by, c.machines, c.size>>10), func(b *testing.B) {
			dir, err := os.MkdirTemp(os.Getenv("UNDERSTUDY_BENCH_DIR"), "spool")
			if err != nil {
				b.Fatal(err)
			}
			defer os.RemoveAll(dir)
			s := newStage(b, func(conf *relay.Config) {
				conf.Log, conf.SpoolDir, conf.SpoolLimit, conf.Segment = nil, dir, 8<<30, 256<<20
			})
			s.vault.Forget()
			each := max(1, b.N/c.machines)
			b.SetBytes(int64(c.size) * int64(each) * int64(c.machines) / int64(b.N))
			var all []*journal
			for range c.machines {
				all = append(all, newJournal(b))
			}
			before := cpu()
			b.ResetTimer()
			for _, j := range all {
				src := &source{j: j, size: c.size, left: each}
				s.ship(j, func(conf *ship.Config) { conf.Frames, conf.Transport, conf.Log = src, c.by, nil })
			}
			eventually(b, "everything is in the vault", func() bool {
				for _, j := range all {
					if int(s.vault.State(j.machine).Last.Seq) < each {
						return false
					}
				}
				return true
			})
			b.StopTimer()
			b.ReportMetric((cpu()-before).Seconds()/(float64(each*c.machines)*float64(c.size)/(1<<30)), "cpu-s/GiB")
		})
	}
}
