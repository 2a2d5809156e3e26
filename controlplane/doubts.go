package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/controlplane/api"
	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// doubtedPoint is a point with the doubts about it; where is for a single one: a list
// of thousands names the stretches once.
func doubtedPoint(q vault.Point, doubts []vault.Doubt, where bool) failover.Point {
	p := pointOf(q)
	for _, d := range doubts {
		if !d.Affects(q.Position) {
			continue
		}
		told := doubtsOf([]vault.Doubt{d})[0]
		if !where {
			told.Extents = nil
		}
		p.InDoubt = append(p.InDoubt, told)
	}
	return p
}

func withDoubts(q *vault.Point, doubts []vault.Doubt) *failover.Point {
	if q == nil {
		return nil
	}
	p := doubtedPoint(*q, doubts, false)
	return &p
}

func doubtsOf(doubts []vault.Doubt) []failover.Doubt {
	var out []failover.Doubt
	for _, d := range doubts {
		out = append(out, failover.Doubt{Found: d.Found, Cause: d.Cause, Bytes: d.Bytes, Extents: d.Extents})
	}
	return out
}

// inDoubt is a list's column.
func inDoubt(p failover.Point) string {
	var causes []string
	for _, d := range p.InDoubt {
		if c := d.Cause + " " + size(d.Bytes); !slices.Contains(causes, c) {
			causes = append(causes, c)
		}
	}
	return strings.Join(causes, ", ")
}

func describeDoubt(d failover.Doubt) string {
	text := fmt.Sprintf("%s %s, found %s", size(d.Bytes), d.Cause, clock(d.Found))
	for _, e := range d.Extents {
		text += fmt.Sprintf("; disk %s at %d, %d bytes", e.Disk, e.Off, e.Len)
	}
	return text
}

// sayDoubts follows a list of points in which some are in doubt.
func sayDoubts(out *printer, h api.History) error {
	if !slices.ContainsFunc(h.Items, func(p failover.Point) bool { return len(p.InDoubt) > 0 }) {
		return nil
	}
	for _, d := range h.Doubts {
		if err := out.say(nil, "In doubt: %s.", describeDoubt(d)); err != nil {
			return err
		}
	}
	return nil
}

// warnOfDoubts refuses a point in doubt, or says loudly that it is one.
func warnOfDoubts(q vault.Point, doubts []vault.Doubt, wanted bool, w io.Writer) error {
	for _, d := range doubtsOf(doubts) {
		if !wanted {
			return problem.New(problem.PointInDoubt, "choose another of understudy point list, or say --in-doubt if you want this one all the same",
				"point %s may show other bytes than the disks had: %s", q.Position, describeDoubt(d))
		}
		fmt.Fprintf(w, "understudy: WARNING: point %s is in doubt: %s\n", q.Position, describeDoubt(d))
	}
	return nil
}
