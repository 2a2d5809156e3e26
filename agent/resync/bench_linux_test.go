package resync

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

const benchSize = 2 << 30

// benchDisk is a loop device with direct I/O on a file of random bytes.
func benchDisk(b *testing.B) *loopDisk {
	dir := scratch(b)
	d := &loopDisk{t: b, image: filepath.Join(dir, "disk.img"), size: benchSize}
	f, err := os.Create(d.image)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.Reader, benchSize); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	d.path = attach(b, d.image, "--direct-io=on")
	return d
}

// void takes frames at no cost.
type void struct{}

func (void) SendBase(context.Context, []byte, uint64, Cursor) error { return nil }

// known answers with the hashes of a disk that did not change, after a round trip.
type known struct {
	coarse []block.Hash16
	delay  time.Duration
}

func (k known) RangeHashes(_ context.Context, _ block.DiskID, off, length, _ int64) ([]block.Hash16, error) {
	time.Sleep(k.delay)
	return k.coarse[off/block.CoarseGranule : (off+length)/block.CoarseGranule], nil
}

// against runs the job beside dd, in turn, and reports both and their ratio.
func against(b *testing.B, d *loopDisk, job Job, h Hasher, opt Options) {
	var dd, ours, cpu time.Duration
	for b.Loop() {
		start := time.Now()
		if out, err := exec.Command("dd", "if="+d.path, "of=/dev/null", "bs=1M", "iflag=direct").CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		dd += time.Since(start)
		start = time.Now()
		used := cpuTime(b)
		if _, err := Run(b.Context(), job, void{}, h, opt); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(start)
		cpu += cpuTime(b) - used
	}
	mb := float64(benchSize) / 1e6 * float64(b.N)
	b.ReportMetric(mb/dd.Seconds(), "dd-MB/s")
	b.ReportMetric(mb/ours.Seconds(), "MB/s")
	b.ReportMetric(dd.Seconds()/ours.Seconds(), "of-dd")
	b.ReportMetric(cpu.Seconds()/float64(b.N)*(1<<30)/benchSize, "cpu-s/GiB")
	b.ReportMetric(0, "ns/op")
}

// cpuTime is what this process used so far, kernel and user.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkFull(b *testing.B) {
	d := benchDisk(b)
	job := Job{Machine: machine, Epoch: 1, Method: frame.MethodFull, Disks: []Target{d.target()}}
	b.Run("paced", func(b *testing.B) { against(b, d, job, nil, Options{}) })
	b.Run("greedy", func(b *testing.B) { against(b, d, job, nil, Options{Greedy: true}) })
}

func BenchmarkHash(b *testing.B) {
	d := benchDisk(b)
	dev, err := openDevice(d.target())
	if err != nil {
		b.Fatal(err)
	}
	defer dev.Close()
	k := known{delay: 5 * time.Millisecond}
	for off, buf := int64(0), aligned(chunkSize); off < d.size; off += chunkSize {
		if _, err := dev.ReadAt(buf, off); err != nil {
			b.Fatal(err)
		}
		k.coarse = block.AppendHashes(k.coarse, buf, block.CoarseGranule)
	}
	job := Job{Machine: machine, Epoch: 1, Method: frame.MethodHash, Disks: []Target{d.target()}}
	b.Run("paced", func(b *testing.B) { against(b, d, job, k, Options{}) })
	b.Run("greedy", func(b *testing.B) { against(b, d, job, k, Options{Greedy: true}) })
}

// fio runs a paced random workload on the disk beside fn and returns its mean and p99
// latency in microseconds.
func fio(b *testing.B, d *loopDisk, rw string, fn func()) (mean, p99 float64) {
	cmd := exec.Command("fio", "--name=w", "--filename="+d.path, "--rw="+rw, "--bs=4k", "--direct=1", "--ioengine=libaio", "--iodepth=4",
		"--rate_iops=1500", "--runtime=12", "--time_based", "--output-format=json")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		time.Sleep(time.Second)
		for stop := time.Now().Add(10 * time.Second); fn != nil && time.Now().Before(stop); {
			fn()
		}
	}()
	out, err := cmd.Output()
	if err != nil {
		b.Fatal(err)
	}
	<-ended
	type side struct {
		Lat struct {
			Mean       float64
			Percentile map[string]float64
		} `json:"clat_ns"`
		Total int64 `json:"total_ios"`
	}
	var res struct {
		Jobs []struct{ Read, Write side }
	}
	if err := json.Unmarshal(out, &res); err != nil || len(res.Jobs) != 1 {
		b.Fatalf("fio: %v: %s", err, out)
	}
	s := res.Jobs[0].Read
	if s.Total == 0 {
		s = res.Jobs[0].Write
	}
	return s.Lat.Mean / 1e3, s.Lat.Percentile["99.000000"] / 1e3
}

// BenchmarkBeside measures what a copy does to a workload of 1,500 IOPS on the same
// disk: alone, beside a greedy copy, beside a paced one.
func BenchmarkBeside(b *testing.B) {
	if _, err := exec.LookPath("fio"); err != nil {
		b.Skip("needs fio")
	}
	d := benchDisk(b)
	for _, rw := range []string{"randwrite", "randread"} {
		for _, mode := range []string{"alone", "greedy", "paced"} {
			b.Run(rw+"/"+mode, func(b *testing.B) {
				var read int64
				var fn func()
				if mode != "alone" {
					fn = func() {
						ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
						defer cancel()
						job := Job{Machine: machine, Epoch: 1, Method: frame.MethodFull, Disks: []Target{d.target()}}
						res, _ := Run(ctx, job, void{}, nil, Options{Greedy: mode == "greedy", Log: slog.New(slog.NewTextHandler(benchLog(), &slog.HandlerOptions{Level: slog.LevelDebug}))})
						read += res.Read
					}
				}
				for b.Loop() {
					mean, p99 := fio(b, d, rw, fn)
					b.ReportMetric(mean, "mean-us")
					b.ReportMetric(p99, "p99-us")
				}
				b.ReportMetric(float64(read)/1e6, "copied-MB")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// benchLog is where a benchmark's log goes: a file named by RESYNC_LOG, or nowhere.
func benchLog() io.Writer {
	f, err := os.OpenFile(os.Getenv("RESYNC_LOG"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return io.Discard
	}
	return f
}
