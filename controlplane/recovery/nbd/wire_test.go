package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"

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

var _ Writer = (*memory)(nil)
var _ recovery.Image = (*memory)(nil)
