package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"sync"
	"time"
)

// Ledger is what the workload's applications were promised: for each stream of values
// when each was begun and when the storage acknowledged it. It lives outside the
// protected disks. A stream's values are 1, 2, 3, … and n is acknowledged before n+1
// is begun, so that at any moment the disk may hold exactly those up to some number.
type Ledger struct {
	mu      sync.Mutex
	streams map[string]*promises
	file    *os.File
	w       *bufio.Writer
	tell    io.Writer // nil if nobody elsewhere is told
}

// promises are times in Unix ns, of value n at [n-1].
type promises struct {
	Begun []int64 `json:"begun"`
	Acked []int64 `json:"acked"`
}

// NewLedger keeps its promises in memory and, for whoever looks into a failure, as
// lines "unix-ns stream number" in ledger.txt.
func (l *Lab) NewLedger() (*Ledger, error) {
	f, err := os.Create(l.Path("ledger.txt"))
	if err != nil {
		return nil, err
	}
	g := &Ledger{streams: map[string]*promises{}, file: f, w: bufio.NewWriter(f)}
	l.OnClose(func() { _ = g.Close() }) // a copy for humans: nothing is decided by it
	return g, nil
}

// Close completes the file.
func (g *Ledger) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return errors.Join(g.w.Flush(), g.file.Close())
}

// begin notes that the next value of the stream is about to be written.
func (g *Ledger) begin(name string) (uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s, now := g.of(name), time.Now().UnixNano()
	s.Begun = append(s.Begun, now)
	return uint64(len(s.Begun)), g.say(line{begun, name, len(s.Begun), now})
}

// of is asked with the lock held.
func (g *Ledger) of(name string) *promises {
	s := g.streams[name]
	if s == nil {
		s = &promises{}
		g.streams[name] = s
	}
	return s
}

// ack notes that the value begun last is on stable storage.
func (g *Ledger) ack(name string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.streams[name]
	now := time.Now().UnixNano()
	s.Acked = append(s.Acked, now)
	_, err := fmt.Fprintf(g.w, "%d %s %d\n", now, name, len(s.Acked))
	return errors.Join(err, g.say(line{acked, name, len(s.Acked), now}))
}

// Bounds says what a disk as of this moment must hold of the stream: every value up to
// acked, and none beyond begun.
func (g *Ledger) Bounds(name string, at time.Time) (acked, begun uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.streams[name]
	if s == nil {
		return 0, 0
	}
	before := func(times []int64) uint64 {
		return uint64(sort.Search(len(times), func(i int) bool { return times[i] >= at.UnixNano() }))
	}
	return before(s.Acked), before(s.Begun)
}

// Acked counts the acknowledged values of all streams.
func (g *Ledger) Acked() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, s := range g.streams {
		n += len(s.Acked)
	}
	return n
}
