package vault

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// catalog is what is known of one machine's history at one moment. It is never
// changed once published: the next one shares its memory.
//
// Memory: 32 bytes for each log frame behind the newest manifest, about 150 for each
// object, and the manifest itself (about 250 bytes for each object of its runs).
type catalog struct {
	machine  block.MachineID
	manifest *manifest
	epochs   []*Epoch   // ascending; also those of which only base frames have come
	logs     []logRef   // objects with frames behind the manifest, ascending
	bounds   []boundary // their frame boundaries, ascending
	last     boundary   // end of the chain; zero before the first frame
	names    map[block.Seq]frame.PointMark
	// damage are objects that break a chain: nothing behind them is known.
	damage []*DamageError
	// hole is the first epoch whose base is damaged, so that no point of it and behind can
	// be told; 0 if there is none.
	hole  block.Epoch
	locks locks
}

// boundary is the place behind one log frame.
type boundary struct {
	pos    block.Position
	closed int64 // Unix ns
	kind   PointKind
}

// logRef is a stored log object and the epochs it spans.
type logRef struct {
	key         string
	first, last block.Seq
	size        int64
	parts       []part
}

// part is the stretch of a log object that lies in one epoch.
type part struct {
	epoch       block.Epoch
	first, last block.Seq
}

// baseRef is a stored base object.
type baseRef struct {
	key         string
	first, last uint64
}

func newCatalog(id block.MachineID, m *manifest) *catalog {
	c := &catalog{machine: id, manifest: m, epochs: slices.Clone(m.Epochs)}
	c.last = boundary{pos: m.Log, closed: m.Closed}
	return c
}

// epoch finds an epoch's facts; nil if there are none.
func (c *catalog) epoch(e block.Epoch) *Epoch {
	i, ok := c.findEpoch(e)
	if !ok {
		return nil
	}
	return c.epochs[i]
}

func (c *catalog) findEpoch(e block.Epoch) (int, bool) {
	return slices.BinarySearchFunc(c.epochs, e, func(x *Epoch, e block.Epoch) int { return cmp.Compare(x.Epoch, e) })
}

// edit returns an epoch's facts for changing, in a list of epochs that is the
// catalog's own.
func (c *catalog) edit(e block.Epoch) *Epoch {
	i, ok := c.findEpoch(e)
	c.epochs = slices.Clone(c.epochs)
	if !ok {
		c.epochs = slices.Insert(c.epochs, i, &Epoch{Epoch: e})
		return c.epochs[i]
	}
	facts := *c.epochs[i]
	c.epochs[i] = &facts
	return &facts
}

// withLog is the catalog after one more log object, stored under a writer's lease. It
// fails, and changes nothing, if the frames do not continue the chain.
func (c *catalog) withLog(key string, size int64, writer uint64, frames []*frame.Frame) (*catalog, error) {
	next := *c
	ref := logRef{key: key, first: frames[0].First, last: frames[len(frames)-1].Last, size: size}
	for _, f := range frames {
		if f.Last <= c.manifest.Log.Seq {
			continue // already in a run: thinning ended inside this object
		}
		epoch := next.last.pos.Epoch
		if err := next.addFrame(f); err != nil {
			return nil, err
		}
		if f.Epoch != epoch {
			next.edit(f.Epoch).Writer = writer
		}
		if n := len(ref.parts); n > 0 && ref.parts[n-1].epoch == f.Epoch {
			ref.parts[n-1].last = f.Last
		} else {
			ref.parts = append(ref.parts, part{f.Epoch, f.First, f.Last})
		}
	}
	if len(ref.parts) > 0 {
		next.logs = append(c.logs, ref)
	}
	return &next, nil
}

// around is the first frame of the log object that holds seq and goes on behind it; 0 if
// there is none.
func (c *catalog) around(seq block.Seq) block.Seq {
	i := slices.IndexFunc(c.logs, func(l logRef) bool { return l.first <= seq && seq < l.last })
	if i < 0 {
		return 0
	}
	return c.logs[i].first
}

// addFrame extends the chain by one log or mark frame.
func (c *catalog) addFrame(f *frame.Frame) error {
	if f.Machine != c.machine {
		return fmt.Errorf("%w: a frame of machine %s in the log of %s", ErrContinuity, f.Machine, c.machine)
	}
	b := boundary{pos: f.Position(), closed: f.Closed.UnixNano(), kind: PointCrash}
	var mark frame.Mark
	var err error
	switch f.Kind {
	case frame.KindMark:
		if mark, err = f.Mark(); err != nil {
			return fmt.Errorf("%w: the mark at %v: %w", ErrContinuity, f.Position(), err)
		}
	case frame.KindBase:
		return fmt.Errorf("%w: base frame %d of epoch %d among log frames", ErrContinuity, f.First, f.Epoch)
	}
	begins := mark.Type == frame.MarkEpochBegin
	switch {
	case c.last.pos.Seq == 0 && !begins:
		return fmt.Errorf("%w: the log of machine %s must start with the beginning of an epoch, not with frame %v", ErrContinuity, c.machine, f.Position())
	case c.last.pos.Seq != 0 && f.First != c.last.pos.Seq+1:
		return fmt.Errorf("%w: frame %d..%d of machine %s, expected %d", ErrContinuity, f.First, f.Last, c.machine, c.last.pos.Seq+1)
	case begins && f.Epoch <= c.last.pos.Epoch, !begins && f.Epoch != c.last.pos.Epoch:
		return fmt.Errorf("%w: frame %d..%d of machine %s is in epoch %d, the chain in epoch %d", ErrContinuity, f.First, f.Last, c.machine, f.Epoch, c.last.pos.Epoch)
	}
	c.apply(f, mark, &b)
	c.bounds, c.last = append(c.bounds, b), b
	return nil
}

// apply takes down what a mark says.
func (c *catalog) apply(f *frame.Frame, mark frame.Mark, b *boundary) {
	switch mark.Type {
	case frame.MarkEpochBegin:
		e := c.edit(f.Epoch)
		e.Begin, e.Began, e.Reason, e.Method = f.First, f.Closed.UTC(), mark.Reason, mark.Method
		e.Disks = nil
		for _, d := range mark.Disks {
			e.Disks = append(e.Disks, Disk{ID: d.ID, Name: d.Name, Path: d.Path, Size: d.Size, SectorSize: d.SectorSize})
		}
	case frame.MarkBaseComplete:
		e := c.edit(f.Epoch)
		e.Complete, e.BaseFrames = f.Last, mark.BaseFrames
	case frame.MarkPoint:
		if mark.Point == nil {
			return
		}
		b.kind = PointApp
		if k := PointKind(mark.Point.Kind); k == PointGroup || k == PointCrash {
			b.kind = k
		}
		names := make(map[block.Seq]frame.PointMark, len(c.names)+1)
		for seq, p := range c.names {
			names[seq] = p
		}
		names[f.Last] = *mark.Point
		c.names = names
	}
}

// committedBase is the number of base frames of an epoch without a gap from 1.
func (c *catalog) committedBase(e block.Epoch) uint64 {
	if facts := c.epoch(e); facts != nil {
		return facts.Committed
	}
	return 0
}

// withBase is the catalog after one more base object of an epoch. It fails, and
// changes nothing, if the frames do not continue the epoch's numbering.
func (c *catalog) withBase(e block.Epoch, key string, frames []*frame.Frame) (*catalog, error) {
	if c.manifest.holdsBase(e, math.MaxUint64) {
		return nil, fmt.Errorf("%w: base frames of epoch %d of machine %s come after the epoch was thinned", ErrContinuity, e, c.machine)
	}
	expected := c.committedBase(e) + 1
	ref := baseRef{key: key, first: uint64(frames[0].First), last: uint64(frames[len(frames)-1].First)}
	for _, f := range frames {
		if f.Machine != c.machine || f.Kind != frame.KindBase || f.Epoch != e || uint64(f.First) != expected {
			return nil, fmt.Errorf("%w: %s frame %d of epoch %d of machine %s, expected base frame %d of epoch %d of machine %s",
				ErrContinuity, f.Kind, f.First, f.Epoch, f.Machine, expected, e, c.machine)
		}
		expected++
	}
	next := *c
	edit := next.edit(e)
	edit.base, edit.Committed = append(edit.base, ref), ref.last
	return &next, nil
}

// layer is an object of a history, or the part of it between two cuts.
type layer struct {
	key         string
	kind        sealed.Kind
	run         *runObject  // for objects of runs: where their extents lie
	epoch       block.Epoch // otherwise only frames of this epoch…
	after, upto uint64      // …with a First greater than after and a Last up to upto
}

// holds reports whether a frame of the object belongs to the layer.
func (l layer) holds(h frame.Header) bool {
	return l.run != nil || h.Epoch == l.epoch && uint64(h.First) > l.after && uint64(h.Last) <= l.upto
}

// layers are the objects that a position sees, the oldest first.
func (c *catalog) layers(p block.Position) []layer {
	var out []layer
	end := at(p)
	for i := range c.manifest.Runs {
		if r := &c.manifest.Runs[i]; r.End.compare(end) <= 0 {
			out = append(out, r.layers()...)
		}
	}
	return append(out, c.tail(end)...)
}

func (r *run) layers() []layer {
	out := make([]layer, len(r.Objects))
	for i := range r.Objects {
		out[i] = layer{key: r.Objects[i].Key, kind: sealed.KindRun, run: &r.Objects[i]}
	}
	return out
}

// tail are the objects behind the runs up to a cut, in the order of the line: for
// each epoch its base, then its log.
func (c *catalog) tail(end cut) []layer {
	var out []layer
	logs, from := c.logs, c.manifest.Through
	for _, e := range c.epochs {
		if e.Begin == 0 && e.Epoch != end.Epoch || e.Epoch > end.Epoch {
			continue
		}
		base := layer{kind: sealed.KindBase, epoch: e.Epoch, upto: math.MaxUint64}
		if e.Epoch == end.Epoch {
			base.upto = end.Base
		}
		for _, b := range e.base {
			if base.key = b.key; b.first <= base.upto {
				out = append(out, base)
			}
		}
		for len(logs) > 0 && logs[0].lastEpoch() < e.Epoch {
			logs = logs[1:]
		}
		for _, l := range logs {
			for _, p := range l.parts {
				if p.epoch == e.Epoch && p.first <= end.Seq {
					out = append(out, layer{key: l.key, kind: sealed.KindLog, epoch: e.Epoch, after: uint64(from.Seq), upto: uint64(end.Seq)})
				}
			}
			if l.lastEpoch() > e.Epoch || l.first > end.Seq {
				break
			}
		}
	}
	return out
}

// objects names everything the catalog refers to that holds frames.
func (c *catalog) objects() (names []string) {
	for _, r := range c.manifest.Runs {
		for _, o := range r.Objects {
			names = append(names, o.Key)
		}
	}
	for _, e := range c.epochs {
		for _, b := range e.base {
			names = append(names, b.key)
		}
	}
	for _, l := range c.logs {
		names = append(names, l.key)
	}
	return names
}

func (l logRef) lastEpoch() block.Epoch { return l.parts[len(l.parts)-1].epoch }
