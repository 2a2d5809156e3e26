package vault

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// PointKind says what a recovery point promises.
type PointKind string

// The kinds of recovery point.
const (
	// PointCrash is what a power cut at that moment would have left.
	PointCrash PointKind = "crash"
	// PointApp was taken with the machine's applications quiesced.
	PointApp PointKind = "app"
	// PointGroup is one cut over all machines of a group.
	PointGroup PointKind = "group"
)

// Point is a recovery point: a frame boundary that can be brought back.
type Point struct {
	Position block.Position `json:"position"`
	Time     time.Time      `json:"time"` // the machine's clock when the frame closed
	Kind     PointKind      `json:"kind"`
	Name     string         `json:"name,omitempty"`
	Locked   bool           `json:"locked,omitempty"` // kept whatever the retention says
	// Problem says why the point is not application-consistent, where that was wanted.
	// Once thinning has come by, only the name is known.
	Problem string `json:"problem,omitempty"`
}

// What PointAt takes besides a position, a time and a name.
const (
	Latest    = "latest"
	LatestApp = "latest-app"
)

// Points are the recovery points from one time to another, both included, in the
// order of the log; a zero time leaves that end open.
func (m *Machine) Points(ctx context.Context, from, to time.Time) ([]Point, error) {
	c, err := m.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	var points []Point
	c.eachPoint(func(p Point) bool {
		if !p.Time.Before(from) && (to.IsZero() || !p.Time.After(to)) {
			points = append(points, p)
		}
		return true
	})
	return points, nil
}

// eachPoint yields the offered points in the order of the log.
func (c *catalog) eachPoint(yield func(Point) bool) {
	for i := range c.manifest.Runs {
		r := &c.manifest.Runs[i]
		if r.Point != "" && !yield(c.describe(boundary{r.position(), r.Closed, r.Point}, r.Name)) {
			return
		}
	}
	var e *Epoch
	for _, b := range c.bounds {
		if e == nil || e.Epoch != b.pos.Epoch {
			e = c.epoch(b.pos.Epoch)
		}
		if e.offers(b.pos.Seq) && !c.torn(e.Epoch) && !yield(c.marked(b)) {
			return
		}
	}
}

// marked describes a boundary behind the runs with what its mark says.
func (c *catalog) marked(b boundary) Point {
	m := c.names[b.pos.Seq]
	p := c.describe(b, m.Name)
	p.Problem = m.Problem
	return p
}

func (c *catalog) describe(b boundary, name string) Point {
	p := Point{Position: b.pos, Time: time.Unix(0, b.closed).UTC(), Kind: b.kind, Name: name}
	for _, lock := range c.locks[b.pos] {
		p.Locked = true
		if p.Name == "" {
			p.Name = lock.Name
		}
	}
	return p
}

// PointAt finds a recovery point: "latest", "latest-app", a position such as
// "3.1042", the name of a point, or a time in RFC 3339, for which it is the newest
// point not after it. What cannot be had fails with a *PointError that says what can.
func (m *Machine) PointAt(ctx context.Context, spec string) (Point, error) {
	c, err := m.snapshot(ctx)
	if err != nil {
		return Point{}, err
	}
	spec = strings.TrimSpace(spec)
	if t, err := time.Parse(time.RFC3339Nano, spec); err == nil {
		return c.pointAtTime(spec, t)
	}
	match, why := c.matcher(spec)
	var found *Point
	c.eachPoint(func(p Point) bool {
		if match(p) {
			found = &p
		}
		return true
	})
	if found == nil {
		return Point{}, c.noPoint(spec, why)
	}
	return *found, nil
}

// matcher is the test that the wanted point passes last, and what it means that none
// does.
func (c *catalog) matcher(spec string) (match func(Point) bool, why string) {
	switch spec {
	case Latest, "":
		return func(Point) bool { return true }, "there is none yet"
	case LatestApp:
		return func(p Point) bool { return p.Kind != PointCrash }, "no application-consistent point is retained"
	}
	if pos, err := block.ParsePosition(spec); err == nil {
		return func(p Point) bool { return p.Position == pos }, "that position is not a retained frame boundary"
	}
	return func(p Point) bool { return p.Name == spec }, "it is neither a retained point's name nor a position nor a time in RFC 3339"
}

func (c *catalog) pointAtTime(spec string, t time.Time) (Point, error) {
	var first, found *Point
	c.eachPoint(func(p Point) bool {
		if first == nil {
			first = &p
		}
		if !p.Time.After(t) {
			found = &p
		}
		return true
	})
	switch {
	case t.UnixNano() > c.last.closed:
		return Point{}, c.noPoint(spec, "the vault does not know the machine so late")
	case found == nil && first != nil:
		return Point{}, c.noPoint(spec, "the oldest retained point is younger")
	case found == nil:
		return Point{}, c.noPoint(spec, "there is none yet")
	}
	return *found, nil
}

// noPoint says what there is instead of what was asked for.
func (c *catalog) noPoint(spec, why string) error {
	var first, last *Point
	n := 0
	c.eachPoint(func(p Point) bool {
		if first == nil {
			first = &p
		}
		last = &p
		n++
		return true
	})
	available := "the vault holds nothing of it yet"
	switch {
	case last != nil:
		available = fmt.Sprintf("%d points from %s (%s) to %s (%s) are available", n,
			first.Time.Format(time.RFC3339Nano), first.Position, last.Time.Format(time.RFC3339Nano), last.Position)
	case c.last.pos.Seq != 0:
		available = c.pending()
	}
	if len(c.damage) > 0 {
		available += "; " + c.damage[0].Error()
	}
	return &PointError{Machine: c.machine, Spec: spec, Why: why, Available: available}
}

// pending says why the newest epoch offers no point; empty if it does.
func (c *catalog) pending() string {
	e := c.epoch(c.last.pos.Epoch)
	switch {
	case e == nil || e.offers(c.last.pos.Seq):
		return ""
	case e.Complete == 0:
		return fmt.Sprintf("epoch %d (%s) is still copying: %d base frames stored", e.Epoch, e.Reason, e.Committed)
	}
	return fmt.Sprintf("epoch %d (%s) lacks base frames: %d of %d stored", e.Epoch, e.Reason, e.Committed, e.BaseFrames)
}

// retained reports whether a position is a point that can be viewed.
func (c *catalog) retained(p block.Position) bool {
	if p.Seq <= c.manifest.Log.Seq {
		return slices.ContainsFunc(c.manifest.Runs, func(r run) bool { return r.Point != "" && r.position() == p })
	}
	_, ok := slices.BinarySearchFunc(c.bounds, p, func(b boundary, p block.Position) int { return b.pos.Compare(p) })
	return ok && !c.torn(p.Epoch) && c.epoch(p.Epoch).offers(p.Seq)
}
