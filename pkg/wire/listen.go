package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// handshakes is how many TCP connections may be in their TLS handshake at once;
// further ones wait in the kernel's queue. It bounds what strangers can cost.
const handshakes = 256

// Listener accepts channels by TCP and QUIC on one port.
type Listener struct {
	tcp       net.Listener
	transport *quic.Transport
	udp       *quic.Listener
	conf      *tls.Config
	refused   func(remote string, err error)

	streams chan Stream
	ctx     context.Context // ends with Close; of no one request
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// Listen binds addr (host:port; port 0 picks one that is free for both) for TCP and
// QUIC. refused, if not nil, is told of every connection that failed its handshake
// and why; it is called from many goroutines.
func Listen(ctx context.Context, addr string, conf *tls.Config, refused func(remote string, err error)) (*Listener, error) {
	if refused == nil {
		refused = func(string, error) {}
	}
	l := &Listener{conf: conf, refused: refused, streams: make(chan Stream)}
	if err := l.bind(ctx, addr); err != nil {
		return nil, fmt.Errorf("wire: listening on %s: %w", addr, err)
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.wg.Go(l.acceptTCP)
	l.wg.Go(l.acceptUDP)
	return l, nil
}

// bind takes the TCP port first and then UDP of the same number. Where the number was
// the kernel's choice and UDP has it taken, another one is tried.
func (l *Listener) bind(ctx context.Context, addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	for range 10 {
		if l.tcp, err = lc.Listen(ctx, "tcp", addr); err != nil {
			return err
		}
		if l.transport, l.udp, err = listenQUIC(ctx, l.tcp.Addr().String(), l.conf, l.refused); err == nil {
			return nil
		}
		_ = l.tcp.Close()
		if port != "0" {
			break
		}
	}
	return err
}

// Addr is the address bound, the same for both transports.
func (l *Listener) Addr() net.Addr { return l.tcp.Addr() }

// Accept returns the next channel whose peer has proved itself to be an agent of this
// control plane. It returns net.ErrClosed after Close.
func (l *Listener) Accept(ctx context.Context) (Stream, error) {
	select {
	case s := <-l.streams:
		return s, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close stops listening and ends every QUIC connection; TCP channels already accepted
// live on.
func (l *Listener) Close() error {
	l.cancel()
	err := errors.Join(l.tcp.Close(), l.udp.Close(), l.transport.Close(), l.transport.Conn.Close())
	l.wg.Wait()
	return err
}

// deliver hands a channel to Accept; false means that the listener is closed.
func (l *Listener) deliver(s Stream) bool {
	select {
	case l.streams <- s:
		return true
	case <-l.ctx.Done():
		_ = s.Close()
		return false
	}
}

func (l *Listener) acceptTCP() {
	slots := make(chan struct{}, handshakes)
	for l.ctx.Err() == nil {
		slots <- struct{}{}
		c, err := l.tcp.Accept()
		if err != nil {
			<-slots
			l.breathe(err)
			continue
		}
		l.wg.Go(func() {
			s, err := l.handshake(c)
			<-slots
			if err != nil {
				l.refused(c.RemoteAddr().String(), err)
				return
			}
			l.deliver(s)
		})
	}
}

func (l *Listener) handshake(c net.Conn) (Stream, error) {
	ctx, cancel := context.WithTimeout(l.ctx, dialTimeout)
	defer cancel()
	s, err := wrapTCP(ctx, c, l.conf, tls.Server)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (l *Listener) acceptUDP() {
	for l.ctx.Err() == nil {
		conn, err := l.udp.Accept(l.ctx)
		if err != nil {
			l.breathe(err)
			continue
		}
		l.wg.Go(func() { acceptQUIC(l.ctx, conn, l.deliver) })
	}
}

// breathe reports an accept that failed and waits: the usual cause is that the
// process is out of file descriptors, which passes.
func (l *Listener) breathe(err error) {
	if l.ctx.Err() != nil {
		return
	}
	l.refused("", err)
	select {
	case <-time.After(100 * time.Millisecond):
	case <-l.ctx.Done():
	}
}
