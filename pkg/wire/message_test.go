package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// memory is a stream that is read from one buffer and written to another.
type memory struct {
	io.Reader
	out bytes.Buffer
}

func (m *memory) Write(b []byte) (int, error) { return m.out.Write(b) }
func (m *memory) Flush() error                { return nil }
func (m *memory) CloseWrite() error           { return nil }
func (m *memory) Close() error                { return nil }
func (m *memory) Peer() Peer                  { return Peer{} }

// tick is the smallest frame.
func tick(t testing.TB) []byte {
	t.Helper()
	raw, err := frame.AppendTick(nil, block.MachineID{1, 2, 3}, 4, 5, time.Unix(1700000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// examples has one message of each type.
func examples(t testing.TB) map[string]Message {
	return map[string]Message{
		"hello":           Hello{Machine: block.MachineID{1, 2, 3}, Instance: "00ff", Channel: Log, Epoch: 4, LastSeq: 5, AgentVersion: "0.4.1"},
		"welcome":         Welcome{Epoch: 1, Spooled: 2, Committed: 3, BaseEpoch: 4, SpooledBase: 5, CommittedBase: 6, Credit: 7, RPOTarget: 15 * time.Second, Throttle: 8, RelayVersion: "0.4.1"},
		"frame":           Frame{Raw: tick(t)},
		"ack":             Ack{Epoch: 1, Spooled: 2, Committed: 3, Credit: 4},
		"error":           Refuse(CodeChainGap, "do that", "frame %d is missing", 7),
		"ping":            Ping{ID: 0x0102030405060708},
		"pong":            Pong{ID: 9},
		"hash-request":    HashRequest{ID: 1, Disk: block.DiskID{9, 8, 7}, Off: 4096, Len: 8192, Granule: 4096},
		"hash-request-at": HashRequest{ID: 1, Disk: block.DiskID{9, 8, 7}, Off: 4096, Len: 8192, Granule: 4096, At: block.Position{Epoch: 3, Seq: 1042}},
		"hash-reply":      HashReply{ID: 1, Hashes: []block.Hash16{{1, 2}, {3, 4}}},
		"hash-refusal":    HashReply{ID: 2, Code: CodeHashesFailed, Hashes: []block.Hash16{}},
	}
}

func encode(t testing.TB, m Message) []byte {
	t.Helper()
	s := &memory{}
	if err := (&Conn{s: s}).Write(m); err != nil {
		t.Fatal(err)
	}
	return s.out.Bytes()
}

// TestGolden pins the bytes of every message of version 1.
func TestGolden(t *testing.T) {
	for name, m := range examples(t) {
		got := encode(t, m)
		path := filepath.Join("testdata", name+".v1.hex")
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(path, []byte(hex.EncodeToString(got)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if hex.EncodeToString(got) != strings.TrimSpace(string(want)) {
			t.Errorf("%s changed without its version:\n%x\n%s", name, got, want)
		}
		back, err := (&Conn{s: &memory{Reader: bytes.NewReader(got)}}).Read(nil)
		if err != nil || !reflect.DeepEqual(back, m) {
			t.Errorf("%s came back as %+v, %v", name, back, err)
		}
	}
}

// TestEveryCutOfAMessageIsNoMessage: half a message is an error, never another message.
func TestEveryCutOfAMessageIsNoMessage(t *testing.T) {
	for name, m := range examples(t) {
		whole := encode(t, m)
		for n := range whole {
			back, err := (&Conn{s: &memory{Reader: bytes.NewReader(whole[:n])}}).Read(nil)
			if err == nil {
				t.Errorf("%s cut after %d bytes is read as %+v", name, n, back)
			}
			if n == 0 != errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s cut after %d bytes: %v", name, n, err)
			}
		}
	}
}

func header(t Type, n uint32, body ...byte) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte{byte(t)}, n), body...)
}

func TestLimitsAreJudgedBeforeTheBody(t *testing.T) {
	for name, c := range map[string]struct {
		bytes []byte
		want  error
	}{
		"type 0":           {header(0, 0), ErrUnknownType},
		"type 10":          {header(10, 8), ErrUnknownType},
		"large hello":      {header(TypeHello, MaxControl+1), ErrTooLarge},
		"large welcome":    {header(TypeWelcome, 1<<32-1), ErrTooLarge},
		"large frame":      {header(TypeFrame, MaxFrame+1), ErrTooLarge},
		"small frame":      {header(TypeFrame, frame.HeaderSize-1), ErrMalformed},
		"large ack":        {header(TypeAck, 33), ErrTooLarge},
		"small ack":        {header(TypeAck, 31), ErrMalformed},
		"large reply":      {header(TypeHashReply, maxReply+1), ErrTooLarge},
		"hello of nothing": {header(TypeHello, 2, '{', '}'), ErrMalformed},
		"hello of noise":   {header(TypeHello, 2, 0, 1), ErrMalformed},
		"miscounted reply": {header(TypeHashReply, hashReplyHead, make([]byte, hashReplyHead)...)[:5+hashReplyHead], nil},
		"frame of noise":   {header(TypeFrame, frame.HeaderSize, make([]byte, frame.HeaderSize)...), frame.ErrNotFrame},
		"two in one":       {header(TypeFrame, 2*frame.HeaderSize, append(tick(t), tick(t)...)...), frame.ErrMalformed},
	} {
		_, err := (&Conn{s: &memory{Reader: bytes.NewReader(c.bytes)}}).Read(nil)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	reply := encode(t, HashReply{ID: 1, Hashes: make([]block.Hash16, 3)})
	reply[headerSize+8] = 4 // says four, has three
	if _, err := (&Conn{s: &memory{Reader: bytes.NewReader(reply)}}).Read(nil); !errors.Is(err, ErrMalformed) {
		t.Errorf("miscounted hashes: %v", err)
	}
}

func TestWritesKeepTheLimitsToo(t *testing.T) {
	c := &Conn{s: &memory{}}
	for name, m := range map[string]Message{
		"frame":  Frame{Raw: make([]byte, MaxFrame+1)},
		"hello":  Hello{AgentVersion: strings.Repeat("x", MaxControl)},
		"hashes": HashReply{Hashes: make([]block.Hash16, MaxHashes+1)},
	} {
		if err := c.Write(m); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A refusal gets through however long its words are.
	if err := c.Write(Refuse(CodeInternal, strings.Repeat("\"", MaxControl), "%s", strings.Repeat("\x00", MaxControl))); err != nil {
		t.Errorf("a long error: %v", err)
	}
}

// TestAnnouncedIsNotAllocated: a peer that announces the largest frame, with a header
// that agrees, and sends nothing more, costs a step of memory.
func TestAnnouncedIsNotAllocated(t *testing.T) {
	b := frame.NewBuilder(block.MachineID{1})
	b.Reset(frame.KindLog, 1, 1, time.Now())
	if err := b.Add(block.DiskIDFromName("d"), frame.OpWrite, block.Extent{Len: frame.MaxPayload}, make([]byte, frame.MaxPayload)); err != nil {
		t.Fatal(err)
	}
	raw, err := b.Append(nil, 1, time.Now(), frame.CompressNever)
	if err != nil {
		t.Fatal(err)
	}
	cut := append(header(TypeFrame, uint32(len(raw))), raw[:frame.HeaderSize]...)
	var before, after runtime.MemStats
	const rounds = 20
	runtime.ReadMemStats(&before)
	for range rounds {
		if _, err := (&Conn{s: &memory{Reader: bytes.NewReader(cut)}}).Read(nil); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / rounds; each > 3*fillStep {
		t.Errorf("%d bytes allocated for %d that came", each, len(cut))
	}
}

// TestFrameBuffersAreUsedAgain: a stream of frames allocates for the largest once.
func TestFrameBuffersAreUsedAgain(t *testing.T) {
	one := encode(t, Frame{Raw: tick(t)})
	c := &Conn{s: &memory{Reader: bytes.NewReader(bytes.Repeat(one, 1001))}}
	m, err := c.Read(nil)
	if err != nil {
		t.Fatal(err)
	}
	buf := m.(Frame).Raw
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 1000 {
		if m, err = c.Read(buf); err != nil {
			t.Fatal(err)
		}
		buf = m.(Frame).Raw
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / 1000; each > 200 {
		t.Errorf("%d bytes allocated for each frame", each)
	}
}
