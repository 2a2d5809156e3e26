package wiretest

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/pkg/wire"
)

// Tamper may change what one side of a stream has said, a message at a time (banners
// count as one): it returns what arrives instead, and how late.
type Tamper func(message []byte) (arrive [][]byte, late time.Duration)

// Net is a relay's address in memory: whoever dials it is accepted. Nothing that is
// written ever waits, so that goroutines in a bubble of fake time wait for time or for
// each other, never for a lock that somebody holds over a write.
type Net struct {
	tamper  func(toAgent bool) Tamper
	streams chan wire.Stream
	ctx     context.Context // ends with Close; of no one request
	cancel  context.CancelFunc
}

// NewNet makes a relay's address; tamper, which may be nil, gives each direction of each
// stream its own Tamper.
func NewNet(tamper func(toAgent bool) Tamper) *Net {
	n := &Net{tamper: tamper, streams: make(chan wire.Stream)}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n
}

// Accept implements relay.Listener.
func (n *Net) Accept(ctx context.Context) (wire.Stream, error) {
	select {
	case s := <-n.streams:
		return s, nil
	case <-n.ctx.Done():
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Addr is an address without meaning.
func (n *Net) Addr() net.Addr { return &net.TCPAddr{} }

// Close ends the listening; links live on until they are cut.
func (n *Net) Close() error { n.cancel(); return nil }

// Dial makes a link for an agent that has proved to be peer.
func (n *Net) Dial(peer wire.Peer) *Link { return &Link{net: n, peer: peer} }

// Link is a way to a relay in memory.
type Link struct {
	net  *Net
	peer wire.Peer

	mu      sync.Mutex
	closed  bool
	streams []*stream
}

// Open implements wire.Link.
func (l *Link) Open(ctx context.Context) (wire.Stream, error) {
	up, down := newQueue(), newQueue()
	agent := &stream{in: down, out: up, peer: wire.Peer{Role: wire.RoleRelay}}
	relay := &stream{in: up, out: down, peer: l.peer}
	if l.net.tamper != nil {
		agent.tamper, relay.tamper = l.net.tamper(false), l.net.tamper(true)
	}
	l.mu.Lock()
	closed := l.closed
	l.streams = append(l.streams, agent)
	l.mu.Unlock()
	if closed {
		return nil, net.ErrClosed
	}
	select {
	case l.net.streams <- relay:
		return agent, nil
	case <-l.net.ctx.Done():
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Transport implements wire.Link.
func (l *Link) Transport() wire.Transport { return wire.TCP }

// Close implements wire.Link. It cuts every stream: what was on its way is gone.
func (l *Link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, s := range l.streams {
		_ = s.Close()
	}
	return nil
}

// stream is one end of a stream in memory.
type stream struct {
	in, out *queue
	peer    wire.Peer
	tamper  Tamper
	written []byte // since the last Flush; guarded by the writer being one
}

func (s *stream) Peer() wire.Peer            { return s.peer }
func (s *stream) Read(b []byte) (int, error) { return s.in.read(b) }
func (s *stream) CloseWrite() error          { s.out.end(io.EOF, false); return nil }

func (s *stream) Write(b []byte) (int, error) {
	s.written = append(s.written, b...)
	return len(b), nil
}

func (s *stream) Flush() error {
	message := s.written
	s.written = nil
	if s.tamper == nil {
		return s.out.put(message, time.Time{})
	}
	arrive, late := s.tamper(message)
	at := time.Time{}
	if late > 0 {
		at = time.Now().Add(late)
	}
	for _, m := range arrive {
		if err := s.out.put(m, at); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) Close() error {
	s.in.end(net.ErrClosed, true)
	s.out.end(net.ErrClosed, true)
	return nil
}

// queue is one direction.
type queue struct {
	mu     sync.Mutex
	chunks []chunk
	ended  error
	news   chan struct{}
}

type chunk struct {
	b  []byte
	at time.Time // not to be read before
}

func newQueue() *queue { return &queue{news: make(chan struct{}, 1)} }

func (q *queue) put(b []byte, at time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended != nil {
		return net.ErrClosed
	}
	if len(b) > 0 {
		q.chunks = append(q.chunks, chunk{b, at})
		q.signal()
	}
	return nil
}

// end lets the reader come to its end; at once, if what is on its way is to be lost.
func (q *queue) end(why error, lose bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended == nil {
		q.ended = why
	}
	if lose {
		q.chunks = nil
	}
	q.signal()
}

// signal wakes the reader. mu is held.
func (q *queue) signal() {
	select {
	case q.news <- struct{}{}:
	default:
	}
}

// read waits for bytes, at most for wire.HeartbeatTimeout.
func (q *queue) read(b []byte) (int, error) {
	deadline := time.Now().Add(wire.HeartbeatTimeout)
	for {
		n, wait, err := q.take(b, deadline)
		if n > 0 || err != nil {
			return n, err
		}
		t := time.NewTimer(wait)
		select {
		case <-q.news:
		case <-t.C:
		}
		t.Stop()
	}
}

// take reads what is there, or says how long to wait for more.
func (q *queue) take(b []byte, deadline time.Time) (n int, wait time.Duration, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if wait = time.Until(deadline); wait <= 0 {
		return 0, 0, os.ErrDeadlineExceeded
	}
	if len(q.chunks) == 0 {
		return 0, wait, q.ended
	}
	c := &q.chunks[0]
	if late := time.Until(c.at); late > 0 {
		return 0, min(wait, late), nil
	}
	n = copy(b, c.b)
	if c.b = c.b[n:]; len(c.b) == 0 {
		q.chunks = q.chunks[1:]
	}
	return n, 0, nil
}
