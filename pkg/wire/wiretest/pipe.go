package wiretest

import (
	"net"
	"time"

	"github.com/understudy-dr/understudy/pkg/wire"
)

// pipe is a stream in memory with the deadlines of a real one, for tests in a bubble
// of fake time.
type pipe struct {
	net.Conn
	peer wire.Peer
}

// Pipe is the two ends of a stream: the agent's, then the relay's. Nothing is buffered
// between them, and a half-close closes.
func Pipe(agent wire.Peer) (agentEnd, relayEnd wire.Stream) {
	a, b := net.Pipe()
	return &pipe{a, wire.Peer{Role: wire.RoleRelay}}, &pipe{b, agent}
}

func (p *pipe) Flush() error      { return nil }
func (p *pipe) CloseWrite() error { return p.Close() }
func (p *pipe) Peer() wire.Peer   { return p.peer }

func (p *pipe) Read(b []byte) (int, error) {
	_ = p.SetReadDeadline(time.Now().Add(wire.HeartbeatTimeout))
	return p.Conn.Read(b)
}

func (p *pipe) Write(b []byte) (int, error) {
	_ = p.SetWriteDeadline(time.Now().Add(wire.HeartbeatTimeout))
	return p.Conn.Write(b)
}
