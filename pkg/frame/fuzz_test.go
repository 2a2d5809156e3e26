package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// seal makes the checksums of b right, so that fuzzing gets behind them.
func seal(b []byte) {
	le := binary.LittleEndian
	if len(b) < HeaderSize {
		return
	}
	h := Header{Disks: int(le.Uint16(b[64:])), Extents: int(le.Uint32(b[68:]))}
	if n := h.IndexSize(); n <= len(b) {
		le.PutUint32(b[80:], checksum(b[HeaderSize:n]))
		le.PutUint32(b[84:], checksum(b[n:]))
	}
	le.PutUint32(b[124:], checksum(b[:124]))
}

func addFrames(f *testing.F) {
	tick, _ := AppendTick(nil, machine, 1, 3, closed)
	mark, err := AppendMark(nil, machine, 1, 1, closed, Mark{Type: MarkEpochBegin, Reason: ReasonInitial, Method: MethodFull, Disks: []MarkDisk{{ID: diskA, Size: 1 << 20, Whole: true}}})
	if err != nil {
		f.Fatal(err)
	}
	compressed := NewBuilder(machine)
	compressed.Reset(KindLog, 1, 1, opened)
	_ = compressed.Add(diskA, OpWrite, block.Extent{Len: 8192}, make([]byte, 8192))
	lz4, err := compressed.Append(nil, 1, closed, CompressAlways)
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{sample(f), tick, mark, lz4, forge(func(h *Header) { h.Extents = MaxExtents })} {
		f.Add(b, false)
		f.Add(b, true)
	}
}

// FuzzParse takes any bytes for a frame. Limit: Parse and a look at each extent 4 KiB
// whatever the frame says; Payload what the header says, at most MaxPayload.
func FuzzParse(f *testing.F) {
	addFrames(f)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed {
			seal(b)
		}
		var fr *Frame
		var err error
		fuzztest.Bounded(t, 4<<10, func() {
			fr, err = Parse(b)
			if head, err2 := ParseIndex(b); err == nil && (err2 != nil || head.Header != fr.Header) {
				t.Errorf("the index alone is %v, the frame was taken", err2)
			}
		})
		if err != nil {
			return
		}
		if !bytes.Equal(fr.Bytes(), b) {
			t.Fatal("a frame of other bytes than were parsed")
		}
		var again [HeaderSize]byte
		fr.encode(again[:])
		if same, err := ParseHeader(again[:]); err != nil || same != fr.Header {
			t.Fatalf("the header %+v came back as %+v, %v", fr.Header, same, err)
		}
		var payload []byte
		fuzztest.Bounded(t, MaxPayload+4<<10, func() { payload, err = fr.Payload(nil) })
		if err != nil {
			return
		}
		if len(payload) != fr.Raw || len(payload) > MaxPayload {
			t.Fatalf("a payload of %d bytes, the header says %d", len(payload), fr.Raw)
		}
		for x := range fr.All() {
			if x.Op == OpWrite {
				_ = payload[x.DataOff:][:x.Len]
			}
		}
	})
}

// FuzzRead reads frames from any stream. Limit: MaxSize, and what came.
func FuzzRead(f *testing.F) {
	addFrames(f)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed {
			seal(b)
		}
		fuzztest.Bounded(t, MaxSize+64<<10, func() {
			r := bytes.NewReader(b)
			raw, err := Read(r, nil)
			if err == nil && !bytes.Equal(raw, b[:len(b)-r.Len()]) {
				t.Fatal("read something else than what came")
			}
		})
	})
}

// FuzzMark takes any JSON for a mark. Limit: 256 times its length (two letters can be
// an element of a list) and 64 KiB. What is taken comes back from its own frame.
func FuzzMark(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `{"type":"epoch-begin","reason":"initial","method":"full","disks":[{"id":"000102030405060708090a0b0c0d0e0f","size":4096,"whole":true}]}`,
		`{"type":"epoch-begin","disks":[{"id":"000102030405060708090a0b0c0d0e0f","size":-1,"doubt":[{"off":-512,"len":-1},{"off":9223372036854775807,"len":9223372036854775807}]},{}]}`,
		`{"type":"base-complete","baseFrames":18446744073709551615,"baseBytes":-1}`, `{"type":"point","point":{"name":"x","kind":"app"}}`, `{"type":"point"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > MaxPayload {
			return
		}
		h := Header{Kind: KindMark, Codec: CodecRaw, Machine: machine, Epoch: 1, First: 1, Last: 1, Opened: closed, Closed: closed, Raw: len(body)}
		b, err := appendFrame(nil, h, nil, nil, body)
		if err != nil {
			t.Fatal(err)
		}
		fr, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		var m Mark
		fuzztest.Bounded(t, 256*len(body)+64<<10, func() { m, err = fr.Mark() })
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("an error that is no verdict: %v", err)
			}
			return
		}
		again, err := AppendMark(nil, machine, 1, 1, closed, m)
		if err != nil {
			t.Fatalf("%+v cannot be written again: %v", m, err)
		}
		second, err := Parse(again)
		if err != nil {
			t.Fatal(err)
		}
		n, err := second.Mark()
		if err != nil {
			t.Fatalf("%+v does not come back: %v", m, err)
		}
		if third, err := AppendMark(nil, machine, 1, 1, closed, n); err != nil || !bytes.Equal(third, again) {
			t.Fatalf("%+v came back as %+v, %v", m, n, err)
		}
	})
}
