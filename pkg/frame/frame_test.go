package frame

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/pkg/block"
)

var (
	machine = block.MachineID{1, 2, 3}
	diskA   = block.DiskIDFromName("serial-A")
	diskB   = block.DiskIDFromName("serial-B")
	opened  = time.Unix(1_700_000_000, 123)
	closed  = opened.Add(time.Second)
)

type record struct {
	disk block.DiskID
	op   Op
	e    block.Extent
	data []byte
}

func drawRecords(t *rapid.T) []record {
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	compressible := rapid.Bool().Draw(t, "compressible")
	recs := make([]record, rapid.IntRange(0, 40).Draw(t, "records"))
	for i := range recs {
		r := record{disk: diskA, op: Op(rng.IntN(3) + 1)}
		if rng.IntN(2) == 0 {
			r.disk = diskB
		}
		r.e = block.Extent{Off: rng.Int64N(16) * 512, Len: (rng.Int64N(8) + 1) * 512}
		if r.op == OpWrite {
			r.data = make([]byte, r.e.Len)
			for j := range r.data {
				r.data[j] = byte(i)
				if !compressible {
					r.data[j] = byte(rng.Uint32())
				}
			}
		}
		recs[i] = r
	}
	return recs
}

func apply(disks map[block.DiskID][]byte, r record) {
	d := disks[r.disk]
	if d == nil {
		d = make([]byte, 32*512)
		disks[r.disk] = d
	}
	clear(d[r.e.Off:r.e.End()])
	copy(d[r.e.Off:r.e.End()], r.data)
}

// TestFrameAppliesLikeItsRecords: whatever a builder drops or packs, applying the
// frame gives what applying every record in order gives.
func TestFrameAppliesLikeItsRecords(t *testing.T) {
	b := NewBuilder(machine)
	rapid.Check(t, func(t *rapid.T) {
		recs := drawRecords(t)
		b.Reset(KindLog, 7, 100, opened)
		want, got := map[block.DiskID][]byte{}, map[block.DiskID][]byte{}
		for _, r := range recs {
			apply(want, r)
			if err := b.Add(r.disk, r.op, r.e, r.data); err != nil {
				t.Fatal(err)
			}
		}
		prefix := []byte("before")
		raw, err := b.Append(prefix, 100+block.Seq(len(recs)), closed, Compression(rapid.IntRange(0, 2).Draw(t, "compression")))
		if err != nil {
			t.Fatal(err)
		}
		f, err := Parse(raw[len(prefix):])
		if err != nil {
			t.Fatal(err)
		}
		if f.Epoch != 7 || f.First != 100 || !f.Opened.Equal(opened) || !f.Closed.Equal(closed) || f.Machine != machine {
			t.Fatalf("header came back as %+v", f.Header)
		}
		payload, err := f.Payload(nil)
		if err != nil {
			t.Fatal(err)
		}
		for x := range f.All() {
			r := record{disk: x.Disk, op: x.Op, e: x.Extent}
			if x.Op == OpWrite {
				r.data = payload[x.DataOff : x.DataOff+x.Len]
			}
			apply(got, r)
		}
		for d := range want {
			if !bytes.Equal(want[d], got[d]) {
				t.Fatalf("disk %v differs after %d records", d, len(recs))
			}
		}
	})
}

func sample(t testing.TB) []byte {
	t.Helper()
	return sampleAs(t, CompressAuto)
}

func sampleAs(t testing.TB, c Compression) []byte {
	t.Helper()
	b := NewBuilder(machine)
	b.Reset(KindLog, 1, 1, opened)
	if err := b.Add(diskA, OpWrite, block.Extent{Off: 4096, Len: 4096}, bytes.Repeat([]byte("understudy:)"), 342)[:4096]); err != nil {
		t.Fatal(err)
	}
	if err := b.Add(diskB, OpDiscard, block.Extent{Off: 0, Len: 1 << 40}, nil); err != nil {
		t.Fatal(err)
	}
	raw, err := b.Append(nil, 2, closed, c)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestEveryBitFlipIsFound: no single flipped bit and no truncation passes.
func TestEveryBitFlipIsFound(t *testing.T) {
	raw := sample(t)
	for i := range raw {
		for bit := range 8 {
			bad := bytes.Clone(raw)
			bad[i] ^= 1 << bit
			if _, err := Parse(bad); err == nil {
				t.Fatalf("byte %d bit %d flipped: Parse took it", i, bit)
			}
		}
		if _, err := Parse(raw[:i]); err == nil {
			t.Fatalf("cut to %d bytes: Parse took it", i)
		}
	}
}

func TestVerdicts(t *testing.T) {
	damage := func(f func(b []byte)) []byte { b := sample(t); f(b); return b }
	for name, c := range map[string]struct {
		raw  []byte
		want error
	}{
		"empty":      {nil, ErrTruncated},
		"zeros":      {make([]byte, 256), ErrNotFrame},
		"version":    {damage(func(b []byte) { b[4] = 9 }), ErrVersion},
		"header":     {damage(func(b []byte) { b[60] ^= 1 }), ErrHeaderChecksum},
		"index":      {damage(func(b []byte) { b[HeaderSize] ^= 1 }), ErrIndexChecksum},
		"payload":    {damage(func(b []byte) { b[len(b)-1] ^= 1 }), ErrPayloadChecksum},
		"short":      {sample(t)[:200], ErrTruncated},
		"oversized":  {forge(func(h *Header) { h.Raw, h.Stored = MaxPayload+1, MaxPayload+1 }), ErrLimit},
		"no machine": {forge(func(h *Header) { h.Machine = block.MachineID{} }), ErrMalformed},
		"backwards":  {forge(func(h *Header) { h.First, h.Last = 9, 3 }), ErrMalformed},
	} {
		if _, err := Parse(c.raw); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// forge is a header with right checksums and wrong contents.
func forge(f func(*Header)) []byte {
	h := Header{Kind: KindLog, Codec: CodecRaw, Machine: machine, Epoch: 1, First: 1, Last: 1, Opened: opened, Closed: closed}
	f(&h)
	b := make([]byte, HeaderSize)
	h.encode(b)
	return b
}

func TestReadStream(t *testing.T) {
	one := sample(t)
	two, err := AppendTick(nil, machine, 1, 3, closed)
	if err != nil {
		t.Fatal(err)
	}
	r := bytes.NewReader(append(bytes.Clone(one), two...))
	var buf []byte
	for _, want := range [][]byte{one, two} {
		if buf, err = Read(r, buf); err != nil || !bytes.Equal(buf, want) {
			t.Fatalf("read %d bytes, %v", len(buf), err)
		}
	}
	if _, err := Read(r, buf); err != io.EOF {
		t.Fatalf("at the end: %v", err)
	}
	if _, err := Read(bytes.NewReader(one[:len(one)-1]), nil); !errors.Is(err, ErrTruncated) {
		t.Fatalf("cut stream: %v", err)
	}
}

func TestMarkRoundTrip(t *testing.T) {
	m := Mark{Type: MarkEpochBegin, Reason: ReasonRingOverflow, Method: MethodRanges,
		Disks: []MarkDisk{{ID: diskA, Name: "serial-A", Path: "/dev/sda", Size: 1 << 30, SectorSize: 512, Doubt: []block.Extent{{Off: 4096, Len: 8192}}}}}
	raw, err := AppendMark(nil, machine, 2, 50, opened, m)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Mark()
	if err != nil || got.Type != m.Type || got.Reason != m.Reason || len(got.Disks) != 1 || got.Disks[0].Doubt[0] != m.Disks[0].Doubt[0] {
		t.Fatalf("mark came back as %+v, %v", got, err)
	}
	if f.Tick() || f.Position() != (block.Position{Epoch: 2, Seq: 50}) {
		t.Fatalf("position %v, tick %v", f.Position(), f.Tick())
	}
}

// TestGolden holds the format still: a change of these bytes is a new version. What a
// compressor makes of a payload is its own affair, so that the encoder is held to the
// frame that is not compressed, and the other one, written by another compressor than
// today's, to be read as ever.
func TestGolden(t *testing.T) {
	golden := func(name string) []byte {
		path := filepath.Join("testdata", name)
		if os.Getenv("UPDATE_GOLDEN") != "" && name == "v1-raw.frame" {
			if err := os.WriteFile(path, sampleAs(t, CompressNever), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	plain, packed := golden("v1-raw.frame"), golden("v1-write-and-discard.frame")
	if !bytes.Equal(sampleAs(t, CompressNever), plain) {
		t.Error("the encoder no longer writes the golden bytes")
	}
	f, err := Parse(packed)
	if err != nil || f.Codec != CodecLZ4 || f.Extents != 2 || f.Raw != 4096 {
		t.Fatalf("golden frame: %+v, %v", f, err)
	}
	g, err := Parse(plain)
	if err != nil {
		t.Fatal(err)
	}
	var got, want []byte
	for _, c := range []struct {
		frame *Frame
		to    *[]byte
	}{{f, &got}, {g, &want}} {
		if *c.to, err = c.frame.Payload(nil); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, want) || !slices.Equal(slices.Collect(f.All()), slices.Collect(g.All())) {
		t.Error("the compressed golden frame reads as another than the plain one")
	}
}

func BenchmarkBuild(b *testing.B) {
	data := make([]byte, 4096)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	bl := NewBuilder(machine)
	var dst []byte
	b.SetBytes(256 * 4096)
	for b.Loop() {
		bl.Reset(KindLog, 1, 1, opened)
		for i := range 256 {
			_ = bl.Add(diskA, OpWrite, block.Extent{Off: int64(i) * 4096, Len: 4096}, data)
		}
		dst, _ = bl.Append(dst[:0], 256, closed, CompressAuto)
	}
}

// TestAMarkThatMakesNoSense: readers of marks look disks up by their id and make room
// by their size.
func TestAMarkThatMakesNoSense(t *testing.T) {
	for name, m := range map[string]Mark{
		"disk without id": {Type: MarkEpochBegin, Disks: []MarkDisk{{Size: 512}}},
		"one disk twice":  {Type: MarkEpochBegin, Disks: []MarkDisk{{ID: diskA}, {ID: diskA}}},
		"negative size":   {Type: MarkEpochBegin, Disks: []MarkDisk{{ID: diskA, Size: -1}}},
		"negative doubt":  {Type: MarkEpochBegin, Disks: []MarkDisk{{ID: diskA, Doubt: []block.Extent{{Off: -512, Len: 512}}}}},
		"endless doubt":   {Type: MarkEpochBegin, Disks: []MarkDisk{{ID: diskA, Doubt: []block.Extent{{Off: 1 << 62, Len: 1 << 62}}}}},
		"nameless point":  {Type: MarkPoint},
	} {
		b, err := AppendMark(nil, machine, 1, 1, closed, m)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Mark(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
