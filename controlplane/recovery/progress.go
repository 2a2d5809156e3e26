package recovery

import (
	"sync"
	"time"
)

// Progress is a moment of a running materialisation, as a progress bar wants it.
type Progress struct {
	Disks, DisksDone int
	Done, Total      int64 // bytes of the disks dealt with, of those that must be; holes count in neither
	Written          int64 // bytes written to the targets: Done without the blocks found to be zero
	Elapsed          time.Duration
	Rate             float64       // of Done, bytes a second over the last few seconds
	ETA              time.Duration // -1 while it cannot be told
}

const (
	reportEvery = 200 * time.Millisecond
	rateSamples = 25 // of reportEvery: the rate is that of the last five seconds
)

// meter adds up what the workers do and reports now and then.
type meter struct {
	report func(Progress) // may be nil
	start  time.Time

	mu      sync.Mutex
	now     Progress
	next    time.Time // of the next report
	samples []sample  // oldest first, never empty
}

type sample struct {
	at   time.Time
	done int64
}

func newMeter(disks int, total int64, report func(Progress)) *meter {
	start := time.Now()
	return &meter{
		report:  report,
		start:   start,
		now:     Progress{Disks: disks, Total: total},
		next:    start,
		samples: []sample{{at: start}},
	}
}

// add counts bytes dealt with and, of those, bytes written.
func (m *meter) add(done, written int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Done += done
	m.now.Written += written
	if t := time.Now(); !t.Before(m.next) {
		m.next = t.Add(reportEvery)
		m.say(t)
	}
}

// diskDone counts a disk that has its final name.
func (m *meter) diskDone() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.DisksDone++
	m.say(time.Now())
}

// say reports. Called with the lock held, so reports never overlap or go back.
func (m *meter) say(t time.Time) {
	m.samples = append(m.samples, sample{t, m.now.Done})
	if n := len(m.samples); n > rateSamples {
		m.samples = m.samples[n-rateSamples:]
	}
	p := m.now
	p.Elapsed, p.ETA = t.Sub(m.start), -1
	oldest := m.samples[0]
	if d := t.Sub(oldest.at); d > 0 {
		p.Rate = float64(p.Done-oldest.done) / d.Seconds()
	}
	if left := p.Total - p.Done; left <= 0 {
		p.ETA = 0
	} else if p.Rate > 0 {
		p.ETA = time.Duration(float64(left) / p.Rate * float64(time.Second))
	}
	if m.report != nil {
		m.report(p)
	}
}
