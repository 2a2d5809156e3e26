package block

import (
	"cmp"
	"fmt"
)

// Seq counts the records of one machine's log, from 1, over all its disks and all
// its epochs. It never repeats and never goes back.
type Seq uint64

// Epoch numbers the stretches of unbroken capture of one machine, from 1.
type Epoch uint64

// Position is a cut through all disks of a machine: everything up to and including
// Seq, as seen in Epoch. The zero Position is before everything.
type Position struct {
	Epoch Epoch `json:"epoch"`
	Seq   Seq   `json:"seq"`
}

// Compare orders positions: by epoch, then by sequence.
func (p Position) Compare(q Position) int {
	if c := cmp.Compare(p.Epoch, q.Epoch); c != 0 {
		return c
	}
	return cmp.Compare(p.Seq, q.Seq)
}

// Before reports whether p lies strictly before q.
func (p Position) Before(q Position) bool { return p.Compare(q) < 0 }

// String writes the position as epoch.seq, the form ParsePosition reads.
func (p Position) String() string { return fmt.Sprintf("%d.%d", p.Epoch, p.Seq) }

// ParsePosition reads epoch.seq.
func ParsePosition(s string) (Position, error) {
	var p Position
	var rest string
	if len(s) > maxPosition {
		return p, notPosition(s)
	}
	if n, _ := fmt.Sscanf(s, "%d.%d%s", &p.Epoch, &p.Seq, &rest); n != 2 || p.String() != s {
		return Position{}, notPosition(s)
	}
	return p, nil
}

// maxPosition is the length of the longest: two numbers of 20 digits and a dot.
const maxPosition = 41

func notPosition(s string) error {
	return fmt.Errorf("block: %.64q is not a log position: want EPOCH.SEQ, for example 3.1042", s)
}
