package lab

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
)

// Proxy stands in a TCP path and makes it as bad as networks get: it breaks each
// connection after a random number of bytes, in the middle of whatever passes, or lets
// nothing through.
type Proxy struct {
	Addr string // where it listens

	target   string
	listener net.Listener
	maxBytes atomic.Int64 // a connection is cut at a random byte below; 0: never
	closed   atomic.Bool  // nothing passes

	mu    sync.Mutex
	conns map[net.Conn]bool
	cuts  atomic.Int64
}

// NewProxy passes connections on to the target until it is told otherwise.
func (l *Lab) NewProxy(ctx context.Context, target string) (*Proxy, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{Addr: listener.Addr().String(), target: target, listener: listener, conns: map[net.Conn]bool{}}
	l.OnClose(func() {
		listener.Close()
		p.CutNow()
	})
	go p.accept()
	return p, nil
}

// CutWithin cuts each connection after a random number of bytes up to limit, counted
// from now on and over both directions; 0 ends that.
func (p *Proxy) CutWithin(limit int64) { p.maxBytes.Store(limit); p.CutNow() }

// Close lets nothing through, as a firewall that answers with resets does; Open ends it.
func (p *Proxy) Close() { p.closed.Store(true); p.CutNow() }

// Open lets everything through again.
func (p *Proxy) Open() { p.closed.Store(false) }

// Cuts counts the connections broken so far.
func (p *Proxy) Cuts() int64 { return p.cuts.Load() }

// CutNow breaks every connection.
func (p *Proxy) CutNow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		reset(c)
	}
}

func (p *Proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		if p.closed.Load() {
			reset(in)
			continue
		}
		go p.pass(in)
	}
}

func (p *Proxy) pass(in net.Conn) {
	var d net.Dialer
	out, err := d.DialContext(context.Background(), "tcp", p.target)
	if err != nil {
		reset(in)
		return
	}
	p.keep(in, out)
	defer p.drop(in, out)
	budget := &atomic.Int64{}
	budget.Store(1 << 62)
	if limit := p.maxBytes.Load(); limit > 0 {
		budget.Store(rand.Int64N(limit))
	}
	both := make(chan error, 2)
	go func() { both <- pour(out, in, budget) }()
	go func() { both <- pour(in, out, budget) }()
	if err := <-both; errors.Is(err, errCut) {
		p.cuts.Add(1)
	}
}

var errCut = errors.New("cut")

// pour copies until the budget that both directions share is used up.
func pour(to, from net.Conn, budget *atomic.Int64) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if left := budget.Add(-int64(n)); left <= 0 {
			_, _ = to.Write(buf[:max(0, int64(n)+left)]) // the bytes up to the cut
			return errCut
		}
		if _, werr := to.Write(buf[:n]); werr != nil {
			return werr
		}
		if err != nil {
			return errors.Join(err, io.EOF)
		}
	}
}

func (p *Proxy) keep(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = true
	}
}

func (p *Proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		reset(c)
		delete(p.conns, c)
	}
}

// reset closes without a farewell: the peer sees a broken connection, not an end.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	c.Close()
}
