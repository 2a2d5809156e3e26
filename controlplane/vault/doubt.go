package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/pkg/block"
)

// Doubt says that points may show other bytes than the machine's disks had: a proof
// found a difference and cannot know since when. It concerns the points behind From, up
// to and with the epoch of At: the next epoch repaired the extents. It is kept beside
// the history until the retention has removed the last of those points.
type Doubt struct {
	Found   time.Time          `json:"found"`
	At      block.Position     `json:"at"`   // end of the log when it was found
	From    block.Position     `json:"from"` // where the extents were last proved equal; zero: never
	Cause   string             `json:"cause"`
	Extents []block.DiskExtent `json:"extents"`
	Bytes   int64              `json:"bytes"`
}

// maxDoubts bounds those of one machine: whoever took over its agent could tell of
// differences without end.
const maxDoubts = 256

// ErrTooManyDoubts says that no more points are put in doubt: most of them are.
var ErrTooManyDoubts = errors.New("vault: too many doubts about one machine's points")

// Affects reports whether the point at p is in doubt.
func (d Doubt) Affects(p block.Position) bool { return d.From.Before(p) && p.Epoch <= d.At.Epoch }

// ID names a doubt among those of a machine.
func (d Doubt) ID() string { return d.At.String() + "-" + d.Cause }

// doubtName is the same for the same finding, so that taking it down twice is harmless.
func doubtName(m block.MachineID, d Doubt) string {
	return fmt.Sprintf("%s%020d-%020d-%s", doubtPrefix(m), d.At.Epoch, d.At.Seq, d.Cause)
}

// AddDoubt puts points in doubt. A finding that is on record already changes nothing,
// and neither does one that no point of the history is concerned by.
func (m *Machine) AddDoubt(ctx context.Context, d Doubt) error {
	c, err := m.snapshot(ctx)
	if err != nil {
		return err
	}
	if !c.doubted(d) {
		return nil
	}
	known, err := m.Doubts(ctx)
	if err != nil {
		return err
	}
	if len(known) >= maxDoubts {
		return fmt.Errorf("%w: machine %s has %d already", ErrTooManyDoubts, m.id, len(known))
	}
	if err := m.putDocument(ctx, doubtName(m.id, d), 0, d); err != nil && !errors.Is(err, objstore.ErrExists) {
		return fmt.Errorf("vault: putting points of machine %s in doubt: %w", m.id, err)
	}
	return nil
}

// doubted reports whether the history offers a point that the doubt concerns, or will
// once frames on their way are here.
func (c *catalog) doubted(d Doubt) bool {
	if c.last.pos.Before(d.At) {
		return true
	}
	found := false
	c.eachPoint(func(p Point) bool {
		found = d.Affects(p.Position)
		return !found
	})
	return found
}

// Doubts are the doubts about the machine's points, in the order of the log.
func (m *Machine) Doubts(ctx context.Context) ([]Doubt, error) {
	var doubts []Doubt
	err := m.eachDoubt(ctx, func(_ string, d Doubt) error {
		doubts = append(doubts, d)
		return nil
	})
	return doubts, err
}

// InDoubt are the doubts about one point.
func (m *Machine) InDoubt(ctx context.Context, p block.Position) ([]Doubt, error) {
	doubts, err := m.Doubts(ctx)
	return slices.DeleteFunc(doubts, func(d Doubt) bool { return !d.Affects(p) }), err
}

func (m *Machine) eachDoubt(ctx context.Context, yield func(name string, d Doubt) error) error {
	prefix := doubtPrefix(m.id)
	for info, err := range m.v.store.List(ctx, prefix) {
		if err != nil {
			return fmt.Errorf("vault: doubts of machine %s: %w", m.id, err)
		}
		n, err := parseNumbers(info.Key, prefix, 2)
		if err != nil {
			return err
		}
		// The name alone doubts, so that a damaged document still does: all disks, from
		// the beginning.
		d := Doubt{At: block.Position{Epoch: block.Epoch(n[0]), Seq: block.Seq(n[1])}, Cause: "unreadable"}
		switch err := m.document(ctx, info.Key, &d); {
		case errors.Is(err, objstore.ErrNotFound):
			continue // dropped meanwhile
		case isPassing(err):
			return fmt.Errorf("vault: doubts of machine %s: %w", m.id, err)
		case err != nil:
			d = Doubt{At: d.At, Cause: d.Cause}
		}
		if err := yield(info.Key, d); err != nil {
			return err
		}
	}
	return nil
}

// dropDoubts forgets those of which the retention has left no point.
func (m *Machine) dropDoubts(ctx context.Context, c *catalog, report *ThinReport) error {
	return m.eachDoubt(ctx, func(name string, d Doubt) error {
		if c.doubted(d) {
			return nil
		}
		report.Deleted++
		m.v.metrics.deleted.Inc()
		return m.v.store.Delete(ctx, name)
	})
}
