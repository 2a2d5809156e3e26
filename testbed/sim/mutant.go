package sim

import (
	"context"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/capture/capturetest"
	"github.com/understudy-dr/understudy/agent/pipeline"
	"github.com/understudy-dr/understudy/agent/ship"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// Mutant is a fault in the design, put in between two of its parts. The simulation is
// worth something if it catches each of them.
type Mutant struct {
	Name    string
	Barrier bool // nobody waits for writes in flight before a base is read
	Above   bool // a base ranks above the writes of its epoch
	Lie     bool // the relay acknowledges before its spool is on stable storage
	Forget  bool // dirty ranges are forgotten as soon as a new generation begins
	Early   bool // a base is called complete before its last frames are there
	Thin    bool // thinning merges across points that are retained
	Blind   bool // a relay that lost its lease writes on
}

// Mutants are all of them.
var Mutants = []Mutant{
	{Name: "no in-flight barrier", Barrier: true},
	{Name: "base above writes", Above: true},
	{Name: "acknowledgement before fsync", Lie: true},
	{Name: "forgotten dirty range", Forget: true},
	{Name: "point offered during resync", Early: true},
	{Name: "thinning across a retained point", Thin: true},
	{Name: "stale lease writer", Blind: true},
}

// source puts the mutants of capture in.
func (m Mutant) source(s capture.Source) capture.Source {
	if m.Barrier {
		s = hasty{s}
	}
	if m.Forget {
		s = forgetful{s, new(bool)}
	}
	return s
}

// hasty has no barrier.
type hasty struct{ capture.Source }

func (hasty) Barrier(context.Context, ...block.DiskID) error { return nil }

// forgetful drops ranges when their generation ends, before their data is in the vault;
// not those that the epoch begins with.
type forgetful struct {
	capture.Source
	begun *bool
}

func (f forgetful) Arm(ctx context.Context) (capture.Armed, error) {
	*f.begun = true
	return f.Source.Arm(ctx)
}

func (f forgetful) SwapDirty(ctx context.Context) (uint64, error) {
	pos, err := f.Source.SwapDirty(ctx)
	if *f.begun || err != nil {
		*f.begun = false
		return pos, err
	}
	return pos, f.ForgetDirty()
}

// relay puts the mutants of the connection in.
func (m Mutant) relay(c *ship.Client) pipeline.Relay {
	if m.Early {
		return unflushed{c}
	}
	return c
}

// unflushed does not wait for base frames to arrive.
type unflushed struct{ *ship.Client }

func (unflushed) FlushBase(context.Context) error { return nil }

func (m Mutant) frames(f ship.Frames) ship.Frames {
	if m.Early {
		return &early{Frames: f}
	}
	return f
}

// early says that a base has fewer frames than it has.
type early struct {
	ship.Frames
	raw []byte
}

func (e *early) Next(ctx context.Context, after block.Seq) ([]byte, error) {
	raw, err := e.Frames.Next(ctx, after)
	if err != nil {
		return raw, err
	}
	f, err := frame.Parse(raw)
	if err != nil || f.Kind != frame.KindMark {
		return raw, nil
	}
	m, err := f.Mark()
	if err != nil || m.Type != frame.MarkBaseComplete || m.BaseFrames == 0 {
		return raw, nil
	}
	m.BaseFrames--
	e.raw, err = frame.AppendMark(e.raw[:0], f.Machine, f.Epoch, f.First, f.Closed, m)
	return e.raw, err
}

// baseAbove lays the base of a point's epoch over its writes.
func (w *world) baseAbove(p block.Position, img capturetest.Image) {
	ids := w.machine.kernel.IDs()
	for _, raw := range w.base[p.Epoch] {
		f, err := frame.Parse(raw)
		if err != nil {
			continue
		}
		data, err := f.Payload(nil)
		if err != nil {
			continue
		}
		for e := range f.All() {
			for i, id := range ids {
				if id == e.Disk && e.Op == frame.OpWrite && e.End() <= int64(len(img[i])) {
					copy(img[i][e.Off:e.End()], data[e.DataOff:])
				}
			}
		}
	}
}
