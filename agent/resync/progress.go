package resync

import (
	"sync"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Progress is where a running job stands. Sizes are in bytes of disk.
type Progress struct {
	Disk   block.DiskID // being read now
	Total  int64        // to be read over all disks; grows if file systems change under the copy
	Done   int64        // read and judged, those of an earlier run included
	ToSend int64        // found so far to be missing or different in the replica, this run
	Sent   int64        // of it taken by the sink, this run
	Rate   int64        // bytes a second by which Done grew of late
	// Left estimates the time to the end at that rate; 0 is unknown.
	Left time.Duration
	// Cursor is where to go on once base frame Cursor.Frame is spooled. It also moves
	// where nothing needs sending.
	Cursor Cursor
}

const (
	reportEvery = time.Second
	// rateMemory is how long a rate counts: pauses and bursts of the pacer must not
	// make the estimate jump.
	rateMemory = 15 * time.Second
)

// meter counts for Progress and Result.
type meter struct {
	mu      sync.Mutex
	p       Progress
	res     Result
	pending int64 // of ToSend, in the frame being built
	rate    rate
}

func newMeter(c Cursor) *meter { return &meter{p: Progress{Cursor: c}, rate: rate{at: time.Now()}} }

// plan adds what a disk is about, and what of it an earlier run did.
func (m *meter) plan(total, done int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Total += total
	m.p.Done += done
	m.rate.count += done
}

func (m *meter) begin(d *disk) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Disk = d.ID
}

func (m *meter) examined(c *chunk) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range c.want {
		m.p.Done += e.Len
	}
	for _, p := range c.send {
		m.p.ToSend += p.Len
		m.pending += p.Len
		if p.zero {
			m.res.Zeroed += p.Len
		}
	}
	m.res.Read += c.span.Len
}

func (m *meter) reached(c Cursor) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Cursor = c
}

func (m *meter) made(payload int64, c Cursor) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.res.Bytes += payload
	m.p.Cursor = c
}

// held is what the frame just built settles.
func (m *meter) held() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.pending
	m.pending = 0
	return n
}

// sent notes that a frame went, which settles n bytes of disk.
func (m *meter) sent(n, encoded int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Sent += n
	m.res.Encoded += encoded
}

func (m *meter) totals() Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.res
}

// now is the progress with its estimate.
func (m *meter) now() Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.p
	p.Rate = m.rate.update(time.Now(), p.Done)
	if p.Rate > 0 {
		p.Left = time.Duration(float64(p.Total-p.Done) / float64(p.Rate) * float64(time.Second))
	}
	return p
}

// report calls fn about once a second until stop, which calls it a last time.
func (m *meter) report(fn func(Progress)) (stop func()) {
	if fn == nil {
		return func() {}
	}
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(reportEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				fn(m.now())
			case <-quit:
				fn(m.now())
				return
			}
		}
	}()
	return func() { close(quit); <-ended }
}

// rate averages a growing count over time, newer more than older.
type rate struct {
	at    time.Time
	count int64
	avg   float64 // per second
	seen  time.Duration
}

// update takes the count at time now and returns the average growth a second.
func (r *rate) update(now time.Time, count int64) int64 {
	dt := now.Sub(r.at)
	if dt <= 0 {
		return int64(r.avg)
	}
	// Until there is as much past as memory, the average is over all of the past.
	r.seen = min(r.seen+dt, rateMemory)
	w := min(1, dt.Seconds()/r.seen.Seconds())
	r.avg += w * (float64(count-r.count)/dt.Seconds() - r.avg)
	r.at, r.count = now, count
	return int64(r.avg)
}
