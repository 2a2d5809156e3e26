package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/controlplane/recovery"
	"github.com/understudy-dr/understudy/controlplane/recovery/recoverytest"
)

// client speaks the protocol by hand, to say what no decent client says.
type client struct {
	t *testing.T
	net.Conn
}

// memory is a writable disk whose writes and syncs the test can see and hold up.
type memory struct {
	*recoverytest.Disk
	mu    sync.Mutex
	syncs int
	hold  chan struct{} // if set, a sync waits for it
	fail  error
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return 0, m.fail
	}
	return copy(m.Data[off:], p), nil
}

func (m *memory) Zero(off, length int64, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.Data[off : off+length])
	return nil
}

func (m *memory) Sync() error {
	m.mu.Lock()
	m.syncs++
	m.mu.Unlock()
	if m.hold != nil {
		<-m.hold
	}
	return nil
}

func newMemory(size int) *memory {
	return &memory{Disk: &recoverytest.Disk{Data: bytes.Repeat([]byte("0123456789abcdef"), size/16)}}
}

// dial starts a server for one connection over a pipe. stop drains it and returns
// what Serve returned.
func dial(t *testing.T, opts Options, exports ...Export) (c client, stop func() error) {
	t.Helper()
	srv, err := New(exports, opts)
	if err != nil {
		t.Fatal(err)
	}
	theirs, ours := net.Pipe()
	ln := &oneConn{accepted: make(chan net.Conn, 1), closed: make(chan struct{})}
	ln.accepted <- theirs
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx, ln) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		ours.Close()
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return client{t, ours}, stop
}

type oneConn struct {
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case nc := <-l.accepted:
		return nc, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *oneConn) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (c client) read(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatalf("reading %d bytes: %v", n, err)
	}
	return b
}

func (c client) write(parts ...any) {
	c.t.Helper()
	var b bytes.Buffer
	for _, p := range parts {
		if s, ok := p.(string); ok {
			p = []byte(s)
		}
		if err := binary.Write(&b, binary.BigEndian, p); err != nil {
			c.t.Fatal(err)
		}
	}
	if _, err := c.Write(b.Bytes()); err != nil {
		c.t.Fatalf("writing %d bytes: %v", b.Len(), err)
	}
}

// mustEnd demands that the server hangs up.
func (c client) mustEnd() {
	c.t.Helper()
	if n, err := c.Conn.Read(make([]byte, 1)); n > 0 || err == nil {
		c.t.Fatal("the server talks on")
	}
}

func (c client) hello(flags uint32) {
	c.t.Helper()
	if got := c.read(18); !bytes.Equal(got, []byte("NBDMAGICIHAVEOPT\x00\x03")) {
		c.t.Fatalf("greeting %q", got)
	}
	c.write(flags)
}

// option sends an option and returns the type and payload of the first reply.
func (c client) option(opt option, data ...any) (repType, []byte) {
	c.t.Helper()
	var b bytes.Buffer
	for _, p := range data {
		if s, ok := p.(string); ok {
			p = []byte(s)
		}
		_ = binary.Write(&b, binary.BigEndian, p)
	}
	c.write(uint64(magicOption), uint32(opt), uint32(b.Len()), b.Bytes())
	return c.optionReply(opt)
}

func (c client) optionReply(opt option) (repType, []byte) {
	c.t.Helper()
	h := c.read(20)
	if binary.BigEndian.Uint64(h) != magicReply || binary.BigEndian.Uint32(h[8:]) != uint32(opt) {
		c.t.Fatalf("reply header %x", h)
	}
	return repType(binary.BigEndian.Uint32(h[12:])), c.read(int(binary.BigEndian.Uint32(h[16:])))
}

// enter goes into transmission, plain or with structured replies and block status.
func (c client) enter(structured bool) {
	c.t.Helper()
	c.hello(handshakeFlags)
	if structured {
		if rep, _ := c.option(optStructuredReply); rep != repAck {
			c.t.Fatalf("structured: %x", rep)
		}
		if rep, _ := c.option(optSetMeta, uint32(0), uint32(1), uint32(15), allocationContext); rep != repMeta {
			c.t.Fatalf("meta: %x", rep)
		}
		c.optionReply(optSetMeta)
	}
	if rep, _ := c.option(optGo, uint32(0), uint16(0)); rep != repInfo {
		c.t.Fatalf("go: %x", rep)
	}
	if rep, _ := c.optionReply(optGo); rep != repAck {
		c.t.Fatalf("go: %x", rep)
	}
}

func (c client) request(flags uint16, cmd command, cookie, offset uint64, length uint32, data ...any) {
	c.t.Helper()
	c.write(append([]any{uint32(magicRequest), flags, uint16(cmd), cookie, offset, length}, data...)...)
}

func (c client) mustSimple(cookie uint64, want errno) {
	c.t.Helper()
	b := c.read(simpleSize)
	if binary.BigEndian.Uint32(b) != magicSimple || binary.BigEndian.Uint64(b[8:]) != cookie {
		c.t.Fatalf("reply %x, want one to %d", b, cookie)
	}
	if got := errno(binary.BigEndian.Uint32(b[4:])); got != want {
		c.t.Fatalf("request %d: error %d, want %d", cookie, got, want)
	}
}

func (c client) chunk(cookie uint64) (kind uint16, payload []byte) {
	c.t.Helper()
	b := c.read(chunkSize)
	if binary.BigEndian.Uint32(b) != magicStructured || binary.BigEndian.Uint64(b[8:]) != cookie || binary.BigEndian.Uint16(b[4:]) != chunkDone {
		c.t.Fatalf("chunk %x, want the last to %d", b, cookie)
	}
	return binary.BigEndian.Uint16(b[6:]), c.read(int(binary.BigEndian.Uint32(b[16:])))
}

func TestExportNameTheOldWay(t *testing.T) {
	for _, noZeroes := range []bool{true, false} {
		c, _ := dial(t, Options{}, Export{Name: "sda", Image: newMemory(8192)})
		flags, tail := uint32(flagFixedNewstyle), 124
		if noZeroes {
			flags, tail = handshakeFlags, 0
		}
		c.hello(flags)
		c.write(uint64(magicOption), uint32(optExportName), uint32(3), "sda")
		if b := c.read(10 + tail); binary.BigEndian.Uint64(b) != 8192 || binary.BigEndian.Uint16(b[8:])&flagDontFragment != 0 {
			t.Fatalf("%x", b)
		}
		c.request(0, cmdRead, 7, 16, 16)
		c.mustSimple(7, 0)
		if got := string(c.read(16)); got != "0123456789abcdef" {
			t.Fatalf("read %q", got)
		}
		c.request(0, cmdDisconnect, 8, 0, 0)
		c.mustEnd()
	}
}

func TestHandshakeRefusals(t *testing.T) {
	c, _ := dial(t, Options{}, Export{Name: "sda", Image: newMemory(8192)}, Export{Name: "sdb", Image: newMemory(8192)})
	c.hello(handshakeFlags)
	for name, o := range map[string]struct {
		opt  option
		data []any
		want repType
	}{
		"STARTTLS":                    {5, nil, repErrUnsupported},
		"unknown":                     {4711, []any{"whatever"}, repErrUnsupported},
		"too long":                    {4711, []any{make([]byte, maxOptionData+1)}, repErrTooBig},
		"a list with data":            {optList, []any{"x"}, repErrInvalid},
		"structured with data":        {optStructuredReply, []any{"x"}, repErrInvalid},
		"no such export":              {optGo, []any{uint32(3), "sdc", uint16(0)}, repErrUnknown},
		"no default among two":        {optInfo, []any{uint32(0), uint16(0)}, repErrUnknown},
		"a name past the end":         {optGo, []any{uint32(400), "sda", uint16(0)}, repErrInvalid},
		"a huge name":                 {optGo, []any{uint32(5000), make([]byte, 5000), uint16(0)}, repErrInvalid},
		"fewer requests than said":    {optGo, []any{uint32(3), "sda", uint16(9)}, repErrInvalid},
		"nothing":                     {optGo, nil, repErrInvalid},
		"meta before structured":      {optSetMeta, []any{uint32(3), "sda", uint32(0)}, repErrInvalid},
		"meta with too many queries":  {optListMeta, []any{uint32(3), "sda", uint32(1 << 30)}, repErrTooBig},
		"meta with a query too short": {optListMeta, []any{uint32(3), "sda", uint32(1), uint32(9), "base:"}, repErrInvalid},
	} {
		if rep, text := c.option(o.opt, o.data...); rep != o.want {
			t.Errorf("%s: reply %#x %q, want %#x", name, rep, text, o.want)
		}
	}
	if rep, _ := c.option(optAbort); rep != repAck {
		t.Errorf("abort: %#x", rep)
	}
	c.mustEnd()
}

func TestHandshakesThatEndTheConnection(t *testing.T) {
	for name, say := range map[string]func(client){
		"unknown flags":     func(c client) { c.hello(4) },
		"no option":         func(c client) { c.hello(3); c.write(uint64(0), uint64(0)) },
		"an endless option": func(c client) { c.hello(3); c.write(uint64(magicOption), uint32(99), uint32(maxSkipped+1)) },
		"unknown export":    func(c client) { c.hello(3); c.write(uint64(magicOption), uint32(optExportName), uint32(1), "x") },
		"a name too long": func(c client) {
			c.hello(3)
			c.write(uint64(magicOption), uint32(optExportName), uint32(maxOptionData+1), make([]byte, maxOptionData+1))
		},
		"options without end": func(c client) {
			c.hello(3)
			for range maxOptions {
				c.option(99)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := dial(t, Options{}, Export{Name: "sda", Image: newMemory(8192)})
			say(c)
			c.mustEnd()
		})
	}
}

func TestSilentClientIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stop := dial(t, Options{Patience: time.Minute}, Export{Name: "sda", Image: newMemory(8192)})
		start := time.Now()
		c.hello(3)
		c.mustEnd()
		if waited := time.Since(start); waited != time.Minute {
			t.Errorf("after %v", waited)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestRequestRefusals(t *testing.T) {
	ro := Export{Name: "ro", Image: newMemory(8192), ReadOnly: true}
	rw := Export{Name: "rw", Image: newMemory(8192)}
	for name, r := range map[string]struct {
		export Export
		flags  uint16
		cmd    command
		off    uint64
		n      uint32
		want   errno
	}{
		"read past the end":        {rw, 0, cmdRead, 8192, 1, errInvalid},
		"read wrapping around":     {rw, 0, cmdRead, 1<<64 - 1, 2, errInvalid},
		"read larger than allowed": {rw, 0, cmdRead, 0, 1 << 31, errInvalid},
		"unknown command":          {rw, 0, 99, 0, 0, errInvalid},
		"unknown flag":             {rw, 1 << 9, cmdRead, 0, 1, errInvalid},
		"flag of another command":  {rw, cmdFlagNoHole, cmdTrim, 0, 1, errInvalid},
		"write past the end":       {rw, 0, cmdWrite, 8190, 4, errNoSpace},
		"zeroes past the end":      {rw, 0, cmdWriteZeroes, 0, 8193, errNoSpace},
		"trim past the end":        {rw, 0, cmdTrim, 0, 8193, errInvalid},
		"write to read-only":       {ro, 0, cmdWrite, 0, 4, errPerm},
		"trim of read-only":        {ro, 0, cmdTrim, 0, 4, errPerm},
		"status not negotiated":    {rw, 0, cmdBlockStatus, 0, 4, errInvalid},
		"flush of read-only":       {ro, 0, cmdFlush, 0, 0, 0},
		"fua on a read":            {rw, cmdFlagFUA, cmdRead, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := dial(t, Options{}, r.export)
			c.enter(false)
			c.request(r.flags, r.cmd, 42, r.off, r.n)
			if r.cmd == cmdWrite {
				c.write(make([]byte, r.n))
			}
			c.mustSimple(42, r.want)
			c.request(0, cmdRead, 43, 0, 16) // the session goes on
			c.mustSimple(43, 0)
			if got := string(c.read(16)); got != "0123456789abcdef" {
				t.Fatalf("read %q", got)
			}
		})
	}
	t.Run("a write larger than allowed ends it", func(t *testing.T) {
		c, _ := dial(t, Options{}, rw)
		c.enter(false)
		c.request(0, cmdWrite, 1, 0, maxPayload+1)
		c.mustEnd()
	})
	t.Run("nonsense ends it", func(t *testing.T) {
		c, _ := dial(t, Options{}, rw)
		c.enter(false)
		c.write(make([]byte, requestSize))
		c.mustEnd()
	})
}

func TestStructuredRepliesCarryOffsetsAndWords(t *testing.T) {
	m := newMemory(16384)
	clear(m.Data[4096:8192])
	m.FailAt = 9000
	c, _ := dial(t, Options{}, Export{Name: "sda", Image: m})
	c.enter(true)
	c.request(cmdFlagDontFragment, cmdRead, 1, 32, 16)
	if kind, p := c.chunk(1); kind != chunkOffsetData || binary.BigEndian.Uint64(p) != 32 || string(p[8:]) != "0123456789abcdef" {
		t.Fatalf("%d %q", kind, p)
	}
	c.request(0, cmdRead, 2, 0, 0)
	if kind, p := c.chunk(2); kind != chunkNone || len(p) > 0 {
		t.Fatalf("an empty read: %d %q", kind, p)
	}
	c.request(0, cmdRead, 3, 8192, 4096)
	if kind, p := c.chunk(3); kind != chunkError || errno(binary.BigEndian.Uint32(p)) != errIO || string(p[6:]) != recoverytest.ErrBroken.Error() {
		t.Fatalf("a failing read: %d %q", kind, p)
	}
	for flags, want := range map[uint16][]uint32{0: {1, 4000, 0, 4096, 3, 1904, 0}, cmdFlagReqOne: {1, 4000, 0}} {
		c.request(flags, cmdBlockStatus, 4, 96, 10000)
		kind, p := c.chunk(4)
		got := make([]uint32, len(p)/4)
		_ = binary.Read(bytes.NewReader(p), binary.BigEndian, got)
		if kind != chunkBlockStatus || len(got) != len(want) {
			t.Fatalf("flags %d: %v, want %v", flags, got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("flags %d: %v, want %v", flags, got, want)
			}
		}
	}
	c.request(0, cmdBlockStatus, 5, 0, 0)
	if kind, _ := c.chunk(5); kind != chunkError {
		t.Fatalf("status of nothing: %d", kind)
	}
	m.mu.Lock()
	m.fail = io.ErrShortWrite
	m.mu.Unlock()
	c.request(0, cmdWrite, 6, 0, 4, "data")
	if kind, _ := c.chunk(6); kind != chunkError {
		t.Fatalf("a failing write: %d", kind)
	}
}

func TestFlushAndFUASync(t *testing.T) {
	m := newMemory(8192)
	c, _ := dial(t, Options{}, Export{Name: "sda", Image: m})
	c.enter(false)
	for i, r := range []struct {
		flags uint16
		cmd   command
		syncs int
	}{{0, cmdWrite, 0}, {cmdFlagFUA, cmdWrite, 1}, {0, cmdFlush, 2}, {cmdFlagFUA, cmdTrim, 3}, {cmdFlagFUA, cmdWriteZeroes, 4}, {cmdFlagFUA, cmdRead, 4}} {
		n := uint32(4)
		if r.cmd == cmdFlush || r.cmd == cmdRead {
			n = 0
		}
		c.request(r.flags, r.cmd, uint64(i), 0, n)
		if r.cmd == cmdWrite {
			c.write("data")
		}
		c.mustSimple(uint64(i), 0)
		m.mu.Lock()
		if m.syncs != r.syncs {
			t.Errorf("after %s with flags %d: %d syncs, want %d", r.cmd, r.flags, m.syncs, r.syncs)
		}
		m.mu.Unlock()
	}
}

// TestDrainAnswersWhatItHas stops the server while a flush is under way.
func TestDrainAnswersWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(8192)
		m.hold = make(chan struct{})
		c, stop := dial(t, Options{}, Export{Name: "sda", Image: m})
		c.enter(false)
		c.request(0, cmdFlush, 9, 0, 0)
		synctest.Wait() // the flush is in Sync
		ended := make(chan error)
		go func() { ended <- stop() }()
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
		close(m.hold)
		c.mustSimple(9, 0)
		c.mustEnd()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	})
}

// TestDrainCutsWhoDoesNotRead stops the server while a client ignores its answer.
func TestDrainCutsWhoDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stop := dial(t, Options{Grace: 5 * time.Second}, Export{Name: "sda", Image: newMemory(8192)})
		c.enter(false)
		c.request(0, cmdRead, 1, 0, 8192)
		synctest.Wait()
		start := time.Now()
		if err := stop(); err != nil || time.Since(start) != 5*time.Second {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
	})
}

// TestRequestsAtOnceAreBounded counts the reads under way in the device.
func TestRequestsAtOnceAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(8192)
		var mu sync.Mutex
		var now, most int
		release := make(chan struct{})
		m.OnRead = func(int64) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			<-release
			mu.Lock()
			now--
			mu.Unlock()
		}
		c, stop := dial(t, Options{InFlight: 3}, Export{Name: "sda", Image: m})
		c.enter(false)
		go func() {
			for i := range 10 {
				c.request(0, cmdRead, uint64(i), 0, 512)
			}
		}()
		synctest.Wait()
		if most != 3 {
			t.Errorf("%d reads at once, want 3", most)
		}
		close(release)
		for range 10 {
			c.read(simpleSize + 512)
		}
		if most != 3 {
			t.Errorf("%d reads at once, want 3", most)
		}
		c.Close()
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestNewRefusesBadNames(t *testing.T) {
	for _, names := range [][]string{{""}, {"a\x00b"}, {"a", "a"}, {string(make([]byte, maxName+1))}} {
		var exports []Export
		for _, n := range names {
			exports = append(exports, Export{Name: n, Image: newMemory(16)})
		}
		if _, err := New(exports, Options{}); err == nil {
			t.Errorf("%.20q was taken", names)
		}
	}
}

func TestTooManyConnectionsAreTurnedAway(t *testing.T) {
	ln, err := Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := New([]Export{{Name: "sda", Image: newMemory(16)}}, Options{MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx, ln) }()
	var conns [2]net.Conn
	for i := range conns {
		if conns[i], err = net.Dial("tcp", ln.Addr().String()); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
		n, err := io.ReadFull(conns[i], make([]byte, 18))
		if (err == nil) != (i == 0) {
			t.Errorf("connection %d: %d bytes, %v", i, n, err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestListenKeepsToItself(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0"} {
		if ln, err := Listen(address, false); !errors.Is(err, ErrExposed) {
			t.Errorf("%s: %v, %v", address, ln, err)
		}
	}
	ln, err := Listen("0.0.0.0:0", true)
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
}

func FuzzOptions(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x03sda\x00\x01\x00\x03"))
	f.Add([]byte("\x00\x00\x00\x03sda\x00\x00\x00\x01\x00\x00\x00\x0fbase:allocation"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeInfo(b); err == nil && (len(r.export) > maxName || 6+len(r.export)+2*len(r.wants) != len(b)) {
			t.Fatalf("%+v of %d bytes", r, len(b))
		}
		if r, err := decodeMeta(b); err == nil {
			n := 8 + len(r.export)
			for _, q := range r.queries {
				n += 4 + len(q)
			}
			if n != len(b) || len(r.queries) > maxQueries {
				t.Fatalf("%+v of %d bytes", r, len(b))
			}
		}
	})
}

func FuzzRequest(f *testing.F) {
	f.Add(binary.BigEndian.AppendUint32(nil, magicRequest), int64(1<<20))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		var head [requestSize]byte
		copy(head[:], b)
		r, err := decodeRequest(&head)
		if err != nil || size < 0 {
			return
		}
		if r.check(size, true, true) == nil && r.cmd != cmdFlush &&
			(r.offset > uint64(size) || int64(r.offset)+int64(r.length) > size || int64(r.offset) < 0) {
			t.Fatalf("%+v was taken on a disk of %d bytes", r, size)
		}
	})
}

// FuzzSession lets a client say anything at all.
func FuzzSession(f *testing.F) {
	enter := "\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00"
	f.Add([]byte(enter))
	f.Add([]byte(enter + "\x25\x60\x95\x13\x00\x00\x00\x00aaaaaaaa\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10"))
	f.Add([]byte(enter + "\x25\x60\x95\x13\x00\x00\x00\x01aaaaaaaa\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02xx"))
	f.Add([]byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x08\x00\x00\x00\x00IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, said []byte) {
		srv, err := New([]Export{{Name: "sda", Image: newMemory(1 << 16)}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		theirs, ours := net.Pipe()
		go func() {
			_, _ = ours.Write(said)
			time.Sleep(time.Millisecond)
			ours.Close()
		}()
		go func() { _, _ = io.Copy(io.Discard, ours) }()
		srv.conns.Add(1)
		srv.handle(context.Background(), context.Background(), theirs)
	})
}

var _ Writer = (*memory)(nil)
var _ recovery.Image = (*memory)(nil)
