package transport

import (
	"io"
	"net"
	"sync"
	"testing"
)

// proxy passes TCP connections on to a relay, as one line: when the budget of bytes in
// one direction is used up, all of them are cut, wherever they are.
type proxy struct {
	l      net.Listener
	target string

	mu     sync.Mutex
	open   map[net.Conn]struct{}
	budget map[direction]int // absent: unlimited
	passed map[direction]int
	cuts   int
}

type direction string

const (
	up   direction = "agent to relay"
	down direction = "relay to agent"
)

func newProxy(t testing.TB, target string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, target: target, open: map[net.Conn]struct{}{}, budget: map[direction]int{}, passed: map[direction]int{}}
	t.Cleanup(func() { _ = l.Close(); p.cut() })
	go p.accept()
	return p
}

func (p *proxy) accept() {
	for {
		a, err := p.l.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = a.Close()
			continue
		}
		p.mu.Lock()
		p.open[a], p.open[b] = struct{}{}, struct{}{}
		p.mu.Unlock()
		go p.pass(up, b, a)
		go p.pass(down, a, b)
	}
}

func (p *proxy) pass(d direction, to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		n, last := p.allow(d, n)
		if _, werr := to.Write(buf[:n]); last || werr != nil || err != nil {
			if last {
				p.cut()
			}
			if err == io.EOF {
				_ = to.(*net.TCPConn).CloseWrite()
			}
			return
		}
	}
}

// allow is how many of n bytes may pass; last says that the line is cut behind them.
func (p *proxy) allow(d direction, n int) (int, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := false
	if budget, limited := p.budget[d]; limited && p.passed[d]+n >= budget {
		n, last = max(0, budget-p.passed[d]), true
	}
	p.passed[d] += n
	return n, last
}

// cut ends every connection; the next ones begin with the same budget.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetLinger(-1)
		}
		_ = c.Close()
	}
	clear(p.open)
	clear(p.passed)
	p.cuts++
}

// limit cuts every following line after n bytes in direction d; n < 0 lifts it.
func (p *proxy) limit(d direction, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.passed)
	if n < 0 {
		delete(p.budget, d)
		return
	}
	p.budget[d] = n
}

func (p *proxy) counted() (cuts int) { p.mu.Lock(); defer p.mu.Unlock(); return p.cuts }
