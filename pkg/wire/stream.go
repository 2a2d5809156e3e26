package wire

import (
	"context"
	"io"
)

// Stream is one channel's bytes, whatever the transport. A read or a write that makes
// no progress for HeartbeatTimeout fails. Close may be called from anywhere and ends
// both; otherwise one goroutine reads and one writes.
type Stream interface {
	io.Reader
	// Write may hold bytes back until Flush.
	io.Writer
	Flush() error
	// CloseWrite says that nothing more will come; the peer reads io.EOF.
	CloseWrite() error
	Close() error
	// Peer is who is at the other end.
	Peer() Peer
}

// Link is a way to one relay over which channels are opened.
type Link interface {
	// Open makes the stream of one more channel.
	Open(ctx context.Context) (Stream, error)
	// Transport is TCP or QUIC.
	Transport() Transport
	// Close ends all its streams.
	Close() error
}
