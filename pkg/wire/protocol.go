// Package wire is what an agent and a relay say to each other on port 9443, and how
// the two prove who they are. It knows neither side.
//
// # Connections
//
// A machine speaks on up to three channels: control (heartbeats, range hashes), log
// (its live frames) and base (the frames of an initial copy or a resync, so that a
// copy never stands before a live frame). A channel is one byte stream under TLS 1.3
// with mutual certificates: a TCP connection of its own, or one of three streams of a
// single QUIC connection. The bytes in the streams are the same.
//
// # Protocol flow of a channel
//
//	agent                                    relay
//	banner "UNDERSTUDY 1 agent 0.4.1\n"  ->
//	                                     <-  banner "UNDERSTUDY 1 relay 0.4.1\n"
//	Hello                                ->  (machine, instance, channel, position)
//	                                     <-  Welcome (positions of log and base, credit)
//	  log and base:
//	Frame, Frame, ...                    ->  as far as the credit reaches
//	                                     <-  Ack (spooled, committed, credit), at least
//	                                         one each HeartbeatInterval
//	Ping, when there was nothing to send ->
//	  control:
//	Ping                                 ->
//	                                     <-  Pong
//	                                     <-  Ping, when two claim one identity: the
//	Pong                                 ->  living one answers and stays
//	HashRequest                          ->
//	                                     <-  HashReply
//
// Either side may send Error at any place; it is the last message of its channel and
// the sender closes after it. There is no verb by which an agent could read, alter or
// delete anything that is stored; range hashes of its own disks are all it can ask.
//
// # Credit
//
// Credit is an absolute number of frame bytes counted from the channel's beginning
// and never shrinks. An agent may begin a frame while the bytes sent before it are
// fewer than the credit; it so oversteps by at most one frame, which the relay allows
// for. A relay without room stops raising the credit: agents slow down, nobody is cut.
//
// # Resume
//
// A cut may come at any byte. The agent dials again and goes on behind the position
// that Welcome calls spooled; half a frame is forgotten by the relay.
//
// # Messages, little-endian
//
//	0  1  type
//	1  4  length of the body, bytes
//	5     body
//
// Hello, Welcome and Error are JSON (unknown fields are ignored, so that fields can be
// added within a version); the others are fixed binary.
//
// # Version log
//
//	1  2026-11-23  first version
//	1  2026-11-23  a hash request may end with a position: asked only by a control plane
//	               that has the verb, so no older relay meets one
//	1  2026-11-23  a welcome says when the newest spooled frame was closed; an agent that
//	               is not told goes by the numbers alone
package wire

import (
	"time"

	"github.com/understudy-dr/understudy/pkg/frame"
)

// Version is the protocol version this build speaks; it still understands everything
// from OldestVersion on.
const (
	Version       = 1
	OldestVersion = 1
)

// Port is where a relay listens, tcp and udp.
const Port = 9443

// Heartbeats. Who hears nothing from its peer for HeartbeatTimeout takes it for dead;
// three beats fit into it, so that one may be lost.
const (
	HeartbeatInterval = 5 * time.Second
	HeartbeatTimeout  = 3 * HeartbeatInterval
)

// Limits. A reader refuses what exceeds them before it allocates anything, and grows
// its memory with the bytes that have come, never with the length that was announced.
const (
	MaxControl = 64 << 10      // body of a JSON message, bytes
	MaxFrame   = frame.MaxSize // body of a Frame, bytes
	MaxHashes  = 4096          // range hashes in one reply
	maxBanner  = 128           // a banner line, bytes
	maxReply   = hashReplyHead + MaxHashes*16
	headerSize = 5
)

// Channel is what a stream is for.
type Channel string

// The channels.
const (
	Control Channel = "control"
	Log     Channel = "log"
	Base    Channel = "base"
)

// Valid reports whether c is a channel of this version.
func (c Channel) Valid() bool { return c == Control || c == Log || c == Base }

// Role is what a peer is, in its banner and in its certificate.
type Role string

// The roles.
const (
	RoleAgent Role = "agent"
	RoleRelay Role = "relay"
)
