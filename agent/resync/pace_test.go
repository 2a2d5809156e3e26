package resync

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// simDisk is a disk whose users wait longer the more is read beside them: twice as
// long at bearable bytes a second, three times at twice that.
type simDisk struct {
	bearable float64
	calm     time.Duration
	writes   int       // a second, by others
	from     time.Time // when others begin
	slow     time.Time // until when the relay takes only 5 MB/s
	reads    int       // a second, by others

	mu   sync.Mutex
	a    Activity
	last time.Time
	read int64 // bytes by us since last
	peak float64
}

// wait is how long a request takes beside what was read since last.
func (d *simDisk) wait() time.Duration {
	load := float64(d.read) / time.Since(d.last).Seconds()
	return time.Duration(float64(d.calm) * (1 + load/d.bearable))
}

func (d *simDisk) activity() (Activity, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dt := time.Since(d.last).Seconds()
	if dt < 0.01 { // too short to tell a load
		return d.a, nil
	}
	n := uint64(float64(d.writes) * dt)
	if time.Now().Before(d.from) {
		n = 0
	}
	d.a.Writes += n
	d.a.WriteWait += time.Duration(n) * d.wait()
	d.a.Reads += uint64(float64(d.reads)*dt) + uint64(d.read)>>20
	d.peak = max(d.peak, float64(d.read)/dt)
	d.last, d.read = time.Now(), 0
	return d.a, nil
}

func (d *simDisk) lone(int64) (time.Duration, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.wait(), nil
}

// drive reads as fast as the pacer lets it, at most 1 GB/s, and returns bytes/s over
// the last part of the time.
func drive(t *testing.T, d *simDisk, limit func() int64, total, measured time.Duration) float64 {
	d.last = time.Now()
	p := &pacer{limit: limit, gauge: d.activity, lone: d.lone, rate: paceStart, log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go p.run(ctx)
	var done int64
	for start := time.Now(); time.Since(start) < total; {
		n := p.grain()
		if err := p.wait(ctx, block.Extent{Len: n}); err != nil {
			t.Fatal(err)
		}
		if time.Now().Before(d.slow) {
			time.Sleep(200 * time.Duration(n))
		}
		time.Sleep(time.Duration(n)) // a byte a nanosecond
		d.mu.Lock()
		d.read += n
		if time.Since(start) > total-measured {
			done += n
		} else {
			d.peak = 0
		}
		d.mu.Unlock()
	}
	cancel()
	synctest.Wait() // the pacer is done with the disk
	return float64(done) / measured.Seconds()
}

func TestPaceIdleDiskIsReadAtFullSpeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &simDisk{bearable: 100e6, calm: time.Millisecond}
		if got := drive(t, d, nil, 5*time.Second, 3*time.Second); got < 0.95e9 {
			t.Errorf("%.0f MB/s of 1000 on an idle disk", got/1e6)
		}
	})
}

// TestPaceFindsAnIdleDiskSoon: a tick at the first rate and one look are enough.
func TestPaceFindsAnIdleDiskSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &simDisk{bearable: 100e6, calm: time.Millisecond}
		if got := drive(t, d, nil, time.Second, time.Second); got < 0.55e9 {
			t.Errorf("%.0f MB/s of 1000 in the first second on an idle disk", got/1e6)
		}
	})
}

// TestPaceSparesTheWorkload: others' wait settles at what is called harm, with
// writers and with readers.
func TestPaceSparesTheWorkload(t *testing.T) {
	for name, d := range map[string]*simDisk{
		"writers": {bearable: 100e6, calm: 4 * time.Millisecond, writes: 500},
		"readers": {bearable: 100e6, calm: 4 * time.Millisecond, reads: 500},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := drive(t, d, nil, 60*time.Second, 50*time.Second)
				// 1.25 × 4 ms + 0.1 ms is reached at 27.5 MB/s; halving and rising keep
				// the average below that, and the copy must not starve either.
				if got > 30e6 || got < 12e6 {
					t.Errorf("%.1f MB/s beside a workload that bears 27.5", got/1e6)
				}
				if d.peak > 1.4*27.5e6 {
					t.Errorf("%.1f MB/s at times beside a workload that bears 27.5", d.peak/1e6)
				}
			})
		})
	}
}

// TestPaceComesToAnEnd: on a disk that bears nothing the floor remains.
func TestPaceComesToAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &simDisk{bearable: 1e3, calm: 10 * time.Millisecond, writes: 500}
		if got := drive(t, d, nil, 60*time.Second, 50*time.Second); got < 0.8*paceFloor || got > 1.6*paceFloor {
			t.Errorf("%.1f MB/s, the floor is %.1f", got/1e6, paceFloor/1e6)
		}
	})
}

func TestPaceLimitIsExactAndMayChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := int64(10e6)
		d := &simDisk{bearable: 100e6, calm: time.Millisecond}
		if got := drive(t, d, func() int64 { return limit }, 20*time.Second, 10*time.Second); got < 9e6 || got > 11.1e6 {
			t.Errorf("%.1f MB/s with a limit of 10", got/1e6)
		}
		limit = 20e6
		if got := drive(t, d, func() int64 { return limit }, 20*time.Second, 10*time.Second); got < 18e6 || got > 22e6 {
			t.Errorf("%.1f MB/s with a limit of 20", got/1e6)
		}
	})
}

// TestPaceIsReadyForAWorkload: a long idle time does not raise the rate so far that
// lowering it would take long.
func TestPaceIsReadyForAWorkload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &simDisk{bearable: 100e6, calm: 4 * time.Millisecond, writes: 500, from: time.Now().Add(30 * time.Second)}
		if drive(t, d, nil, 34*time.Second, 2*time.Second); d.peak > 3*27.5e6 {
			t.Errorf("%.1f MB/s two seconds into a workload that bears 27.5", d.peak/1e6)
		}
	})
}

// TestPaceDoesNotSave: a rate that the relay kept from being used does not grow.
func TestPaceDoesNotSave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &simDisk{bearable: 100e6, calm: 4 * time.Millisecond, writes: 500, slow: time.Now().Add(30 * time.Second)}
		if drive(t, d, nil, 34*time.Second, 5*time.Second); d.peak > paceStart {
			t.Errorf("%.1f MB/s at once, a copy begins with %.1f", d.peak/1e6, paceStart/1e6)
		}
	})
}

func TestPaceWithoutCounters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pacer{gauge: func() (Activity, error) { return Activity{}, errors.ErrUnsupported }, rate: paceStart, log: slog.New(slog.DiscardHandler)}
		if err := p.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for range 1000 {
			if err := p.wait(t.Context(), block.Extent{Len: chunkSize}); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("waited %v for nothing", d)
		}
	})
}

func TestPaceStopsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := &pacer{limit: func() int64 { return 1 }, greedy: true}
		_ = p.wait(ctx, block.Extent{Len: chunkSize})
		go func() { time.Sleep(time.Second); cancel() }()
		if err := p.wait(ctx, block.Extent{Len: chunkSize}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
