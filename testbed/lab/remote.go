package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// A workload may run in another machine, which loses its power: what its applications
// were promised must be told before, line by line, to somebody who does not.

// line is one: "begun ext4/log 17 1764489781000000000".
type line struct {
	kind   string
	stream string
	n      int
	at     int64 // Unix ns, by the clock of the machine that writes
}

const (
	begun = "begun"
	acked = "acked"
	found = "found" // on the disk, after a start
)

// Tell has the ledger's every change written to w, too, before the application goes on.
func (g *Ledger) Tell(w io.Writer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tell = w
}

// say is called with the lock held.
func (g *Ledger) say(l line) error {
	if g.tell == nil {
		return nil
	}
	_, err := fmt.Fprintf(g.tell, "%s %s %d %d\n", l.kind, l.stream, l.n, l.at) // one write
	return err
}

// ReadLedger is the ledger of a workload elsewhere, by what it has told so far, in all
// its lives. A last line that is not whole is still being written.
func ReadLedger(r io.Reader) (*Ledger, error) {
	g := &Ledger{streams: map[string]*promises{}}
	for b := bufio.NewReader(r); ; {
		text, err := b.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return g, nil
		} else if err != nil {
			return nil, err
		}
		var l line
		if _, err := fmt.Sscanf(text, "%s %s %d %d\n", &l.kind, &l.stream, &l.n, &l.at); err != nil {
			return nil, fmt.Errorf("ledger says %q: %w", text, err)
		}
		if err := g.take(l); err != nil {
			return nil, fmt.Errorf("ledger says %q: %w", text, err)
		}
	}
}

// take applies a line. A value that was begun when the power went is begun again after
// the start, unless it is found: the first time counts, since a capture that saw it
// then may hold it.
func (g *Ledger) take(l line) error {
	s := g.of(l.stream)
	switch done := len(s.Acked); {
	case l.kind == begun && l.n == len(s.Begun)+1 && len(s.Begun) == done:
		s.Begun = append(s.Begun, l.at)
	case l.kind == begun && l.n == len(s.Begun) && l.n == done+1:
	case l.kind == acked && l.n == done+1 && l.n == len(s.Begun):
		s.Acked = append(s.Acked, l.at)
	case l.kind == found && l.n == done:
	case l.kind == found && l.n == done+1 && l.n == len(s.Begun):
		s.Acked = append(s.Acked, l.at)
	case l.kind == found && l.n < done:
		return fmt.Errorf("%d values were acknowledged: the machine's own disk has lost some", done)
	default:
		return fmt.Errorf("%d values were begun and %d acknowledged before", len(s.Begun), done)
	}
	return nil
}

// found notes what a stream's disks hold when the machine starts.
func (g *Ledger) found(name string, n uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	s, now := g.of(name), time.Now().UnixNano()
	s.Begun = slices.Repeat([]int64{now}, int(n))
	s.Acked = slices.Clone(s.Begun)
	return g.say(line{found, name, int(n), now})
}

// Resume prepares a workload on disks whose past its ledger does not know, as after a
// power cut: Start then goes on behind the values that are found there.
func (w *Workload) Resume() error {
	m := mounts{}
	for name, d := range w.disks {
		m[name] = d.Mount
	}
	for _, s := range w.streams {
		n, err := s.prefix(m)
		if err != nil {
			return fmt.Errorf("what a power cut has left: %w", err)
		}
		if err := w.ledger.found(s.name(), n); err != nil {
			return err
		}
	}
	return nil
}

// Judge is the workload as somebody sees it who only judges: it knows what the one
// elsewhere, on disks of these names and file systems, has told by now.
func Judge(ledger *Ledger, seeded int, disks ...*Disk) *Workload {
	w := NewWorkload(ledger, disks...)
	w.Seeded = seeded
	return w
}

// NewRemote is a machine that is not this one, by its id: the operator's verbs know it,
// and there is no Agent.
func (s *Site) NewRemote(name string, identity []byte) (*Machine, error) {
	m := &Machine{Name: name, site: s}
	return m, m.parseIdentity(identity)
}
