package capture

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// BenchmarkHook measures what a write costs the writer inside the hook, by the
// kernel's own count: direct writes to a loop device over tmpfs, polled meanwhile.
// The count is of all writes of the host: the best batch of ours alone tells most.
func BenchmarkHook(b *testing.B) {
	for _, size := range []int{512, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20} {
		b.Run(bytesText(int64(size)), func(b *testing.B) {
			d := newLoop(b, memory(b), 256<<20)
			s := tracking(b, 64<<20, d)
			stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
			must(b, err)
			defer func() { _ = stats.Close() }()
			best, all := math.Inf(1), hookTime{}
			b.SetBytes(int64(size))
			polled(b, s, func() {
				for n := b.N; n > 0; n -= hookBatch {
					before := hookNow(b, s)
					writeAll(b, d, size, min(n, hookBatch))
					spent := hookNow(b, s).minus(before)
					all = all.plus(spent)
					if spent.runs == hookBatch { // nobody else's
						best = min(best, spent.mean())
					}
				}
			})
			b.ReportMetric(all.mean(), "ns/hook")
			if !math.IsInf(best, 1) {
				b.ReportMetric(best, "ns/hook-best")
			}
		})
	}
}

// hookBatch is the number of writes whose cost is looked at together.
const hookBatch = 20

// hookTime is the time spent in runs of the program.
type hookTime struct {
	ns   time.Duration
	runs uint64
}

func hookNow(b *testing.B, s *source) hookTime {
	stats, err := s.programs["submit"].Stats()
	must(b, err)
	return hookTime{stats.Runtime, stats.RunCount}
}

func (h hookTime) minus(o hookTime) hookTime { return hookTime{h.ns - o.ns, h.runs - o.runs} }
func (h hookTime) plus(o hookTime) hookTime  { return hookTime{h.ns + o.ns, h.runs + o.runs} }
func (h hookTime) mean() float64             { return float64(h.ns) / float64(max(h.runs, 1)) }

// BenchmarkWrite measures whole writes, with and without capture.
func BenchmarkWrite(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		for _, mode := range []string{"unprotected", "untracked", "map", "captured"} {
			b.Run(fmt.Sprintf("%s/%s", bytesText(int64(size)), mode), func(b *testing.B) {
				d := newLoop(b, memory(b), 256<<20)
				work := func() { writeAll(b, d, size, b.N) }
				b.SetBytes(int64(size))
				switch mode {
				case "unprotected":
					work()
				case "untracked":
					openSource(b, 256<<20)
					b.ResetTimer()
					work()
				case "map":
					s := openSource(b, 256<<20)
					must(b, s.Track(b.Context(), d))
					b.ResetTimer()
					work()
				case "captured":
					polled(b, tracking(b, 256<<20, d), work)
				}
			})
		}
	}
}

// polled runs work while the ring is emptied every 2 ms.
func polled(b *testing.B, s *source, work func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			var pos uint64
			n, lost, err := s.Poll(func(r Record) bool { pos = r.Pos; return true })
			if err != nil || lost {
				b.Errorf("lost %v, %v", lost, err)
				return
			}
			if n > 0 {
				must(b, s.Advance(pos))
			}
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	b.ResetTimer()
	work()
	b.StopTimer()
	close(stop)
	<-done
}

func writeAll(b *testing.B, d Disk, size, n int) {
	f := openDirect(b, d.Path)
	defer func() { _ = f.Close() }()
	buf := aligned(size)
	for i := range n {
		if _, err := unix.Pwrite(int(f.Fd()), buf, int64(i)*int64(size)%d.Size); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIdlePoll measures a Poll that finds nothing: what 500 a second cost.
func BenchmarkIdlePoll(b *testing.B) {
	s := tracking(b, 64<<20, newLoop(b, memory(b), 16<<20))
	for b.Loop() {
		if _, lost, err := s.Poll(func(Record) bool { return true }); lost || err != nil {
			b.Fatal(lost, err)
		}
	}
}

// BenchmarkSwap measures the turn of a generation, dominated by the kernel's wait
// for its readers.
func BenchmarkSwap(b *testing.B) {
	s := tracking(b, 64<<20, newLoop(b, memory(b), 1<<30))
	for b.Loop() {
		if _, err := s.SwapDirty(b.Context()); err != nil {
			b.Fatal(err)
		}
		must(b, s.ForgetDirty())
	}
}
