package vault

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

const sector = block.SectorSize

// epochStart is when every modelled machine begins.
var epochStart = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// history is a machine as a guest would make it, and beside it the truth: what every
// disk reads at every offered point. It hands frames to a writer in batches.
type history struct {
	machine block.MachineID
	disks   []frame.MarkDisk
	epoch   block.Epoch
	seq     block.Seq
	now     time.Time
	builder *frame.Builder

	log      [][]byte // frames not yet committed
	base     [][]byte
	baseN    uint64
	complete bool

	logged map[block.DiskID][]byte // bytes written in this epoch's log…
	wrote  map[block.DiskID][]bool // …and where
	below  map[block.DiskID][]byte // base of this epoch over all before it
	want   map[block.Position]map[block.DiskID][]byte
	order  []block.Position
	times  map[block.Position]time.Time
}

func newHistory(disks int, size int64) *history {
	h := &history{
		machine: block.NewMachineID(), now: epochStart,
		want: map[block.Position]map[block.DiskID][]byte{}, times: map[block.Position]time.Time{},
		below: map[block.DiskID][]byte{},
	}
	h.builder = frame.NewBuilder(h.machine)
	for i := range disks {
		name := fmt.Sprintf("disk-%d", i)
		d := frame.MarkDisk{ID: block.DiskIDFromName(name), Name: name, Path: "/dev/" + name, Size: size, SectorSize: sector, Whole: true}
		h.disks = append(h.disks, d)
		h.below[d.ID] = make([]byte, size)
	}
	return h
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// begin opens an epoch: what the log wrote so far sinks below its base.
func (h *history) begin(reason frame.Reason) {
	for id, below := range h.below {
		h.below[id] = h.merge(below, id)
	}
	h.epoch++
	h.baseN, h.complete = 0, false
	h.logged, h.wrote = map[block.DiskID][]byte{}, map[block.DiskID][]bool{}
	for _, d := range h.disks {
		h.logged[d.ID], h.wrote[d.ID] = make([]byte, d.Size), make([]bool, d.Size/sector)
	}
	h.mark(frame.Mark{Type: frame.MarkEpochBegin, Reason: reason, Method: frame.MethodFull, Disks: h.disks})
}

// merge is what a disk reads with the log over what lies below.
func (h *history) merge(below []byte, id block.DiskID) []byte {
	out := bytes.Clone(below)
	for i, w := range h.wrote[id] {
		if w {
			copy(out[i*sector:(i+1)*sector], h.logged[id][i*sector:])
		}
	}
	return out
}

func (h *history) step(d time.Duration) { h.now = h.now.Add(d) }

func (h *history) mark(m frame.Mark) {
	h.seq++
	h.log = append(h.log, must(frame.AppendMark(nil, h.machine, h.epoch, h.seq, h.now, m)))
	h.boundary()
}

func (h *history) tick() {
	h.seq++
	h.log = append(h.log, must(frame.AppendTick(nil, h.machine, h.epoch, h.seq, h.now)))
	h.boundary()
}

// finish says that the base is complete. From here on boundaries are points.
func (h *history) finish() {
	h.complete = true
	h.mark(frame.Mark{Type: frame.MarkBaseComplete, BaseFrames: h.baseN})
}

// boundary takes down the truth at the end of the log.
func (h *history) boundary() {
	if !h.complete {
		return
	}
	p := block.Position{Epoch: h.epoch, Seq: h.seq}
	h.want[p] = map[block.DiskID][]byte{}
	for _, d := range h.disks {
		h.want[p][d.ID] = h.merge(h.below[d.ID], d.ID)
	}
	h.order = append(h.order, p)
	h.times[p] = h.now
}

// write is one record of the guest.
type write struct {
	disk int
	op   frame.Op
	off  int64
	data []byte // for discards and zeroings, only its length counts
}

// frame closes a log frame over some records.
func (h *history) frame(c frame.Compression, writes ...write) {
	first := h.seq + 1
	h.builder.Reset(frame.KindLog, h.epoch, first, h.now)
	for _, w := range writes {
		h.add(w)
		id := h.disks[w.disk].ID
		if w.op == frame.OpWrite {
			copy(h.logged[id][w.off:], w.data)
		} else {
			clear(h.logged[id][w.off : w.off+int64(len(w.data))])
		}
		for i := range len(w.data) / sector {
			h.wrote[id][int(w.off)/sector+i] = true
		}
		h.seq++
	}
	h.log = append(h.log, must(h.builder.Append(nil, h.seq, h.now, c)))
	h.boundary()
}

// baseFrame is one frame of blocks that a resync has read. The guest's disk at that
// moment is the model's business, so any bytes will do.
func (h *history) baseFrame(c frame.Compression, writes ...write) {
	h.baseN++
	h.builder.Reset(frame.KindBase, h.epoch, block.Seq(h.baseN), h.now)
	for _, w := range writes {
		h.add(w)
		id := h.disks[w.disk].ID
		if w.op == frame.OpWrite {
			copy(h.below[id][w.off:], w.data)
		} else {
			clear(h.below[id][w.off : w.off+int64(len(w.data))])
		}
	}
	h.base = append(h.base, must(h.builder.Append(nil, block.Seq(h.baseN), h.now, c)))
}

func (h *history) add(w write) {
	data := w.data
	if w.op != frame.OpWrite {
		data = nil
	}
	e := block.Extent{Off: w.off, Len: int64(len(w.data))}
	if err := h.builder.Add(h.disks[w.disk].ID, w.op, e, data); err != nil {
		panic(err)
	}
}

// flush commits everything gathered, log and base.
func (h *history) flush(t fataler, w *Writer) {
	t.Helper()
	for _, batch := range []*[][]byte{&h.base, &h.log} {
		if len(*batch) == 0 {
			continue
		}
		if err := w.Commit(context.Background(), *batch); err != nil {
			t.Fatalf("commit: %v", err)
		}
		*batch = nil
	}
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// check proves that every point of the history which should be retained reads as the
// truth says, through the vault's public face.
func (h *history) check(t fataler, m *Machine, points []block.Position) {
	t.Helper()
	ctx := context.Background()
	for _, p := range points {
		v, err := m.View(ctx, p)
		if err != nil {
			t.Fatalf("view %v: %v", p, err)
		}
		for _, d := range h.disks {
			want := h.want[p][d.ID]
			got := make([]byte, d.Size)
			if n, err := v.ReadAt(ctx, d.ID, got, 0); err != nil || int64(n) != d.Size {
				t.Fatalf("read disk %s at %v: %d bytes, %v", d.Name, p, n, err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("disk %s at %v differs first at sector %d", d.Name, p, firstDifference(got, want)/sector)
			}
			checkExtents(t, v, d, want)
			checkLots(t, v, d, want, 0)
			checkLots(t, v, d, want, d.Size/3)
			hashes, err := m.RangeHashes(ctx, p, d.ID, 0, d.Size, block.FineGranule)
			if err != nil || !slices.Equal(hashes, block.AppendHashes(nil, want, block.FineGranule)) {
				t.Fatalf("range hashes of disk %s at %v differ: %v", d.Name, p, err)
			}
		}
		v.Close()
	}
}

// checkLots proves that the lots from off on are the disk but for zeros, and that what
// lies before one of them was in those before it.
func checkLots(t fataler, v *View, d frame.MarkDisk, want []byte, off int64) {
	t.Helper()
	ctx := context.Background()
	got, done := make([]byte, d.Size), off
	for l, err := range v.Lots(ctx, d.ID, off) {
		if err != nil {
			t.Fatalf("lots: %v", err)
		}
		if l.Off() < done || !bytes.Equal(got[done:l.Off()], want[done:l.Off()]) {
			t.Fatalf("disk %s: a lot begins at %d, and not all before it was in the others", d.Name, l.Off())
		}
		done = l.Off()
		left := l.Len()
		err = l.Read(ctx, func(at int64, p []byte) error {
			copy(got[at:], p)
			left -= int64(len(p))
			return nil
		})
		if err != nil || left != 0 {
			t.Fatalf("disk %s: a lot at %d has %d bytes too few: %v", d.Name, l.Off(), left, err)
		}
	}
	if !bytes.Equal(got[off:], want[off:]) {
		t.Fatalf("disk %s: the lots from %d on are not the disk", d.Name, off)
	}
}

// checkExtents proves that what the extents leave out is zero, and what they call
// zero is.
func checkExtents(t fataler, v *View, d frame.MarkDisk, want []byte) {
	t.Helper()
	rest, end := bytes.Clone(want), int64(0)
	for e, err := range v.Extents(context.Background(), d.ID) {
		if err != nil {
			t.Fatalf("extents: %v", err)
		}
		if e.Empty() || e.Off < end || e.End() > d.Size {
			t.Fatalf("extent %v behind %d", e, end)
		}
		if e.Zero && !block.IsZero(want[e.Off:e.End()]) {
			t.Fatalf("extent %v of disk %s is called zero and is not", e, d.Name)
		}
		clear(rest[e.Off:e.End()])
		end = e.End()
	}
	if !block.IsZero(rest) {
		t.Fatalf("disk %s has data in no extent", d.Name)
	}
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i/sector)*31 + byte(i%7)
	}
	return b
}

// drawWrites draws records that overlap often.
func drawWrites(t *rapid.T, h *history, seed *int) []write {
	ws := make([]write, rapid.IntRange(1, 6).Draw(t, "writes"))
	for i := range ws {
		d := rapid.IntRange(0, len(h.disks)-1).Draw(t, "disk")
		sectors := h.disks[d].Size / sector
		off := rapid.Int64Range(0, sectors-1).Draw(t, "off")
		n := rapid.Int64Range(1, min(sectors-off, 24)).Draw(t, "len")
		*seed++
		op := rapid.SampledFrom([]frame.Op{frame.OpWrite, frame.OpWrite, frame.OpWrite, frame.OpDiscard, frame.OpZero}).Draw(t, "op")
		ws[i] = write{d, op, off * sector, pattern(int(n)*sector, byte(*seed))}
	}
	return ws
}

func drawCompression(t *rapid.T) frame.Compression {
	return rapid.SampledFrom([]frame.Compression{frame.CompressNever, frame.CompressAlways}).Draw(t, "codec")
}

// drawSteps lets the guest live for a while, with resyncs now and then.
func (h *history) drawSteps(t *rapid.T, n int, w *Writer, gap func() time.Duration) {
	seed := int(h.seq) * 7
	for range n {
		h.step(gap())
		switch rapid.IntRange(0, 9).Draw(t, "step") {
		case 0:
			if rapid.IntRange(0, 3).Draw(t, "resync") == 0 {
				h.flush(t, w) // an object holds base frames of one epoch
				h.begin(frame.ReasonRingOverflow)
				break
			}
			h.tick()
		case 1, 2:
			if !h.complete {
				h.baseFrame(drawCompression(t), drawWrites(t, h, &seed)...)
				break
			}
			h.mark(frame.Mark{Type: frame.MarkPoint, Point: &frame.PointMark{Name: fmt.Sprintf("app-%d", h.seq), Kind: "app"}})
		case 3:
			if !h.complete {
				h.finish()
				break
			}
			fallthrough
		default:
			h.frame(drawCompression(t), drawWrites(t, h, &seed)...)
		}
		if rapid.IntRange(0, 2).Draw(t, "flush") == 0 {
			h.flush(t, w)
		}
	}
	h.flush(t, w)
}

// setup makes a vault in a store, and opens a writer of the history's machine.
func setup(t fataler, store objstore.Store, h *history) (*Vault, *Writer) {
	t.Helper()
	ctx := context.Background()
	v, err := Create(ctx, store, Options{Key: Key{1}, Now: func() time.Time { return h.now }})
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	v.limits.patience = 0
	w, err := v.OpenWriter(ctx, h.machine)
	if err != nil {
		t.Fatalf("open writer: %v", err)
	}
	return v, w
}

// reopen is the vault as another process finds it.
func reopen(t fataler, store objstore.Store, h *history) (*Vault, *Machine) {
	t.Helper()
	ctx := context.Background()
	v, err := Open(ctx, store, Options{Key: Key{1}, Now: func() time.Time { return h.now }})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	v.limits.patience = 0
	m, err := v.Machine(ctx, h.machine)
	if err != nil {
		t.Fatalf("machine: %v", err)
	}
	return v, m
}

func positions(t fataler, m *Machine) []block.Position {
	t.Helper()
	points, err := m.Points(context.Background(), time.Time{}, time.Time{})
	if err != nil {
		t.Fatalf("points: %v", err)
	}
	out := make([]block.Position, len(points))
	for i, p := range points {
		out[i] = p.Position
	}
	return out
}

// TestEveryPointReadsAsTheModel lives random lives over several disks and epochs, and
// reads every point of them back, in the writing process and in another.
func TestEveryPointReadsAsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(rapid.IntRange(1, 3).Draw(t, "disks"), 64*sector)
		store := mem.New()
		v, w := setup(t, store, h)
		h.begin(frame.ReasonInitial)
		h.drawSteps(t, rapid.IntRange(1, 40).Draw(t, "steps"), w, func() time.Duration { return time.Second })

		live, err := v.Machine(context.Background(), h.machine)
		if err != nil {
			t.Fatal(err)
		}
		_, other := reopen(t, store, h)
		for _, m := range []*Machine{live, other} {
			if got := positions(t, m); !slices.Equal(got, h.order) {
				t.Fatalf("points %v, want %v", got, h.order)
			}
			h.check(t, m, h.order)
		}
		state := w.State()
		if state.Last.Seq != h.seq || state.Complete != h.complete || state.Base[h.epoch] != h.baseN {
			t.Fatalf("state %+v, model at %d.%d base %d complete %v", state, h.epoch, h.seq, h.baseN, h.complete)
		}
		if again := must(reopenWriter(v, h)).State(); !again.equal(state) {
			t.Fatalf("state after reopening %+v, before %+v", again, state)
		}
	})
}

func reopenWriter(v *Vault, h *history) (*Writer, error) {
	return v.OpenWriter(context.Background(), h.machine)
}

func (s State) equal(o State) bool {
	return s.Last == o.Last && s.Closed.Equal(o.Closed) && s.Complete == o.Complete && maps.Equal(s.Base, o.Base)
}
