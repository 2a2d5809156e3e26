package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/quic-go/quic-go"
)

// Receive windows. A stream's must cover bandwidth times delay of the fastest path
// used: 16 MiB is 1 Gbit/s over 130 ms. They grow from 1 MiB as the path asks.
const (
	quicWindow     = 1 << 20
	quicMaxStream  = 16 << 20
	quicMaxConn    = 24 << 20
	quicMaxStreams = 8 // three channels, and room for those that replace them
)

func quicConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           dialTimeout / 2,
		MaxIdleTimeout:                 HeartbeatTimeout,
		KeepAlivePeriod:                HeartbeatInterval,
		InitialStreamReceiveWindow:     quicWindow,
		MaxStreamReceiveWindow:         quicMaxStream,
		InitialConnectionReceiveWindow: quicWindow * 3 / 2,
		MaxConnectionReceiveWindow:     quicMaxConn,
		MaxIncomingStreams:             quicMaxStreams,
		MaxIncomingUniStreams:          -1,
	}
}

// quicStream is a channel as one stream of a QUIC connection.
type quicStream struct {
	*quic.Stream
	peer Peer
}

func (s *quicStream) Flush() error      { return nil }
func (s *quicStream) CloseWrite() error { return s.Stream.Close() }
func (s *quicStream) Peer() Peer        { return s.peer }

func (s *quicStream) Read(b []byte) (int, error) {
	// A living connection with a silent peer process is what this deadline finds; a
	// dead connection is QUIC's own to find.
	_ = s.SetReadDeadline(time.Now().Add(HeartbeatTimeout))
	return s.Stream.Read(b)
}

// Write gives each chunk its own time, so that only a peer that takes nothing fails.
func (s *quicStream) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		_ = s.SetWriteDeadline(time.Now().Add(HeartbeatTimeout))
		var m int
		m, err = s.Stream.Write(b[n:min(len(b), n+holdBack)])
		n += m
	}
	return n, err
}

// Close ends both directions. What was written before still arrives: ending the
// writing side is not a reset.
func (s *quicStream) Close() error {
	s.CancelRead(0)
	_ = s.SetWriteDeadline(time.Now()) // frees a stuck Write, which holds the stream
	return s.Stream.Close()
}

func quicPeer(c *quic.Conn) (Peer, error) {
	p, err := Identify(c.ConnectionState().TLS.PeerCertificates[0])
	p.Remote, p.Transport = c.RemoteAddr().String(), QUIC
	return p, err
}

// quicLink opens streams of one connection.
type quicLink struct {
	conn *quic.Conn
	peer Peer
}

func dialQUIC(ctx context.Context, addr string, conf *tls.Config) (*quicLink, error) {
	conn, err := quic.DialAddr(ctx, addr, conf, quicConfig())
	if err != nil {
		return nil, quicDialError(addr, err)
	}
	peer, err := quicPeer(conn)
	if err != nil {
		_ = conn.CloseWithError(0, "")
		return nil, err
	}
	return &quicLink{conn: conn, peer: peer}, nil
}

func quicDialError(addr string, err error) error {
	var refused *quic.TransportError
	if errors.As(err, &refused) {
		return fmt.Errorf("wire: TLS with %s by QUIC: %w", addr, explain(err))
	}
	return &connectError{fmt.Errorf("wire: connecting to %s by QUIC: %w", addr, err)}
}

func (l *quicLink) Transport() Transport { return QUIC }

func (l *quicLink) Open(ctx context.Context) (Stream, error) {
	s, err := l.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, fmt.Errorf("wire: opening a QUIC stream: %w", explain(err))
	}
	return &quicStream{Stream: s, peer: l.peer}, nil
}

func (l *quicLink) Close() error { return l.conn.CloseWithError(0, "done") }

// acceptQUIC hands every stream of a connection to deliver until the connection ends.
func acceptQUIC(ctx context.Context, conn *quic.Conn, deliver func(Stream) bool) {
	peer, err := quicPeer(conn)
	if err != nil {
		_ = conn.CloseWithError(0, "")
		return
	}
	for {
		s, err := conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		if !deliver(&quicStream{Stream: s, peer: peer}) {
			_ = conn.CloseWithError(0, "closing")
			return
		}
	}
}

// listenQUIC binds the UDP socket of a listener.
func listenQUIC(ctx context.Context, addr string, conf *tls.Config, refused func(string, error)) (*quic.Transport, *quic.Listener, error) {
	var lc net.ListenConfig
	sock, err := lc.ListenPacket(ctx, "udp", addr)
	if err != nil {
		return nil, nil, err
	}
	t := &quic.Transport{Conn: sock, ConnContext: func(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
		context.AfterFunc(ctx, func() { reportRefusal(info.RemoteAddr.String(), context.Cause(ctx), refused) })
		return ctx, nil
	}}
	l, err := t.Listen(conf, quicConfig())
	if err != nil {
		_ = sock.Close()
		return nil, nil, err
	}
	return t, l, nil
}

// reportRefusal tells of a connection that this side ended during its handshake: such
// a one never comes out of Accept, only its context carries the cause.
func reportRefusal(remote string, cause error, refused func(string, error)) {
	var t *quic.TransportError
	if errors.As(cause, &t) && !t.Remote && t.ErrorCode.IsCryptoError() {
		refused(remote, explain(cause))
	}
}
