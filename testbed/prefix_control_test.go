//go:build testbed

package testbed

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/testbed/lab"
)

const (
	controlShare   = 0.02            // of the records come late in the negative control
	controlLate    = 2 * time.Second // at most
	controlStretch = 8 * time.Second // of history that is replayed
)

// control replays the end of the history from its frames, once as it was and once with
// a share of its records late, and has the points on the way judged as recovered ones
// are. All of the one must pass and the other must not: nothing else differs.
func (p *proof) control() {
	p.t.Helper()
	n := 20
	if testing.Short() {
		n = 6
	}
	start, points := p.controlPoints(n)
	frames := p.frames(start, points[len(points)-1])
	got, err := p.machine.Recover(p.t.Context(), start.Position.String(), p.scratch("control"))
	p.must(err)
	files, err := got.Files(p.disks)
	p.must(err)
	for _, share := range []float64{0, controlShare} {
		dir := p.scratch("replayed")
		replay, err := lab.NewReplay(p.disks, p.copied(files, dir), p.figures.Seed)
		p.must(err)
		replay.Share, replay.Late = share, controlLate
		refused, err := p.replay(replay, frames, points)
		p.must(errors.Join(err, replay.Close(), os.RemoveAll(dir)))
		for _, r := range refused {
			p.t.Logf("with %.0f%% late, point %v: wrong are %s", 100*share, r.point, strings.Join(r.wrong, ", "))
		}
		if share == 0 {
			p.figures.ControlUndelayed = len(refused)
			continue
		}
		p.figures.ControlPoints, p.figures.ControlDelayed, p.figures.ControlCaught = len(points), replay.Delayed, len(refused)
		p.countRefusals(refused)
	}
	p.must(p.machine.CleanUp(p.t.Context(), got))
	if p.figures.ControlUndelayed > 0 {
		p.t.Errorf("%d of %d points are refused though nothing was late", p.figures.ControlUndelayed, len(points))
	}
	if p.figures.ControlCaught*2 < len(points) {
		p.t.Errorf("with %.0f%% of the records late only %d of %d points are refused: the judge is blind", 100*controlShare, p.figures.ControlCaught, len(points))
	}
}

// controlPoints draws points of the quiet end, behind the one to start from.
func (p *proof) controlPoints(n int) (start vault.Point, points []vault.Point) {
	p.t.Helper()
	points, err := p.past.Points(p.t.Context(), p.calm, p.pool.end)
	p.must(err)
	if len(points) < n+1 {
		p.t.Fatalf("only %d points in the last %s", len(points), controlStretch)
	}
	start, points = points[0], points[len(points)/4:] // late records need time to come
	p.random.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
	points = points[:min(n, len(points))]
	slices.SortFunc(points, func(a, b vault.Point) int { return a.Position.Compare(b.Position) })
	return start, points
}

func (p *proof) frames(after, upto vault.Point) []*frame.Frame {
	p.t.Helper()
	var frames []*frame.Frame
	for f, err := range p.past.Frames(p.t.Context(), after.Position.Seq, upto.Position.Seq) {
		p.must(err)
		frames = append(frames, f)
	}
	return frames
}

// copied are the files' copies in dir.
func (p *proof) copied(files map[string]string, dir string) map[string]string {
	p.t.Helper()
	r, err := lab.NewReplay(p.disks, files, 0)
	p.must(err)
	defer r.Close()
	copies, err := r.Snapshot(p.t.Context(), dir)
	p.must(err)
	return copies
}

// refusal is a point that the judge does not let pass, and where it sees why.
type refusal struct {
	point block.Position
	wrong []string // disks and applications
}

// countRefusals counts the points that each part of the judge would have refused alone.
func (p *proof) countRefusals(refused []refusal) {
	f := &p.figures
	by := map[string]*int{lab.Ext4: &f.ControlByExt4, lab.XFS: &f.ControlByXFS, lab.Btrfs: &f.ControlByBtrfs}
	for _, r := range refused {
		for _, d := range p.disks {
			if slices.Contains(r.wrong, d.Name) {
				*by[d.FS]++
			}
		}
		if slices.ContainsFunc(r.wrong, func(name string) bool { return strings.Contains(name, "/") }) {
			f.ControlByValues++
		}
	}
}

// replay applies the frames, judges the points on the way and returns the refused.
func (p *proof) replay(r *lab.Replay, frames []*frame.Frame, points []vault.Point) (refused []refusal, err error) {
	for _, f := range frames {
		if err := r.Apply(f); err != nil {
			return nil, fmt.Errorf("frame %v: %w", f.Position(), err)
		}
		if len(points) == 0 || f.Position() != points[0].Position {
			continue
		}
		dir := p.scratch("judged")
		files, err := r.Snapshot(p.t.Context(), dir)
		if err != nil {
			return nil, err
		}
		v, verdict := p.work.Verify(p.t.Context(), p.Lab, files, points[0].Time)
		if verdict != nil && len(v.Wrong) == 0 {
			return nil, verdict // the judge itself is in trouble
		}
		if verdict != nil {
			refused = append(refused, refusal{points[0].Position, v.Wrong})
		}
		points = points[1:]
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
	}
	if len(points) > 0 {
		return nil, fmt.Errorf("there is no frame that ends with point %v", points[0].Position)
	}
	return refused, nil
}
