package wire

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Type is a message's first byte. Zero is no type.
type Type uint8

// The message types of version 1.
const (
	TypeHello       Type = 1
	TypeWelcome     Type = 2
	TypeFrame       Type = 3
	TypeAck         Type = 4
	TypeError       Type = 5
	TypePing        Type = 6
	TypePong        Type = 7
	TypeHashRequest Type = 8
	TypeHashReply   Type = 9
)

// The verdicts on a message's bytes.
var (
	ErrUnknownType = errors.New("wire: unknown message type")
	ErrTooLarge    = errors.New("wire: message exceeds its limit")
	ErrMalformed   = errors.New("wire: malformed message")
)

// Instance is one run of an agent's process. A machine has one identity; two
// instances of it at once mean that it was cloned.
type Instance string

// NewInstance draws a random instance.
func NewInstance() Instance {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return Instance(hex.EncodeToString(b[:]))
}

// Hello opens a channel.
type Hello struct {
	Machine  block.MachineID `json:"machine"`
	Instance Instance        `json:"instance"`
	Channel  Channel         `json:"channel"`
	// Epoch and LastSeq are the newest the agent has in its log: what it could send.
	Epoch        block.Epoch `json:"epoch"`
	LastSeq      block.Seq   `json:"lastSeq"`
	AgentVersion string      `json:"agentVersion"`
}

// Welcome answers Hello with what the relay has of the machine. Spooled is on the
// relay's stable storage, committed is in the vault.
type Welcome struct {
	// Epoch is the epoch of Spooled.
	Epoch     block.Epoch `json:"epoch"`
	Spooled   block.Seq   `json:"spooled"`
	Committed block.Seq   `json:"committed"`
	// Closed is the closing time of the frame that ends at Spooled, by which the agent
	// knows whether it is its own; zero from a relay that does not tell.
	Closed time.Time `json:"closed,omitzero"`
	// BaseEpoch is the newest epoch of which base frames have come; the two numbers
	// count its base frames.
	BaseEpoch     block.Epoch `json:"baseEpoch"`
	SpooledBase   uint64      `json:"spooledBase"`
	CommittedBase uint64      `json:"committedBase"`
	// Credit is the channel's first grant in bytes (see Ack).
	Credit uint64 `json:"credit"`
	// RPOTarget and Throttle are the policy's: a duration in nanoseconds, and bytes
	// a second, 0 for unlimited.
	RPOTarget    time.Duration `json:"rpoTarget"`
	Throttle     int64         `json:"throttle"`
	RelayVersion string        `json:"relayVersion"`
}

// Frame carries one encoded frame, untouched.
type Frame struct{ Raw []byte }

// Ack says how far a channel's frames have come. On the log channel the numbers are
// sequence numbers and Epoch is that of Spooled; on the base channel they count the
// base frames of Epoch.
type Ack struct {
	Epoch     block.Epoch
	Spooled   uint64
	Committed uint64
	// Credit is how many bytes of frames the agent may send on this channel, counted
	// from its beginning. It never shrinks.
	Credit uint64
}

// Ping asks for a Pong with the same number on the control channel; elsewhere it only
// says that the sender lives.
type Ping struct{ ID uint64 }

// Pong answers a Ping.
type Pong struct{ ID uint64 }

// HashRequest asks for the range hashes of a stretch of one of the machine's own
// disks as the vault knows it, granule by granule (bytes, from the disk's beginning).
type HashRequest struct {
	ID      uint64 // returned in the reply
	Disk    block.DiskID
	Off     int64
	Len     int64
	Granule int64
	// At is the frame boundary whose bytes are meant, read anew from the store: a proof
	// trusts no hash that was stored beside them. Zero is what a resync compares with,
	// from stored hashes where there are any. A body without it ends behind Granule.
	At block.Position
}

// Count is the number of hashes that answer the request.
func (r HashRequest) Count() int64 { return (r.Len + r.Granule - 1) / r.Granule }

// HashReply answers a HashRequest: the hashes, or why there are none.
type HashReply struct {
	ID     uint64
	Code   Code // empty where Hashes holds
	Hashes []block.Hash16
}

// Message is one of the above.
type Message interface {
	kind() Type
	// append encodes the body.
	append(dst []byte) ([]byte, error)
}

func (Hello) kind() Type       { return TypeHello }
func (Welcome) kind() Type     { return TypeWelcome }
func (Frame) kind() Type       { return TypeFrame }
func (Ack) kind() Type         { return TypeAck }
func (*Error) kind() Type      { return TypeError }
func (Ping) kind() Type        { return TypePing }
func (Pong) kind() Type        { return TypePong }
func (HashRequest) kind() Type { return TypeHashRequest }
func (HashReply) kind() Type   { return TypeHashReply }

func appendJSON(dst []byte, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return dst, fmt.Errorf("wire: encoding: %w", err)
	}
	if len(body) > MaxControl {
		return dst, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(body))
	}
	return append(dst, body...), nil
}

func (m Hello) append(dst []byte) ([]byte, error)   { return appendJSON(dst, m) }
func (m Welcome) append(dst []byte) ([]byte, error) { return appendJSON(dst, m) }
func (m Frame) append(dst []byte) ([]byte, error)   { return append(dst, m.Raw...), nil }

func (m *Error) append(dst []byte) ([]byte, error) {
	short := *m
	short.Message = short.Message[:min(len(short.Message), MaxControl/16)]
	short.Remedy = short.Remedy[:min(len(short.Remedy), MaxControl/16)]
	return appendJSON(dst, short)
}

func appendWords(dst []byte, words ...uint64) []byte {
	for _, w := range words {
		dst = binary.LittleEndian.AppendUint64(dst, w)
	}
	return dst
}

func (m Ack) append(dst []byte) ([]byte, error) {
	return appendWords(dst, uint64(m.Epoch), m.Spooled, m.Committed, m.Credit), nil
}
func (m Ping) append(dst []byte) ([]byte, error) { return appendWords(dst, m.ID), nil }
func (m Pong) append(dst []byte) ([]byte, error) { return appendWords(dst, m.ID), nil }

func (m HashRequest) append(dst []byte) ([]byte, error) {
	dst = append(appendWords(dst, m.ID), m.Disk[:]...)
	dst = appendWords(dst, uint64(m.Off), uint64(m.Len), uint64(m.Granule))
	if m.At != (block.Position{}) {
		dst = appendWords(dst, uint64(m.At.Epoch), uint64(m.At.Seq))
	}
	return dst, nil
}

// A hash reply's body: id, count of hashes, 28 bytes of code padded with zeros,
// hashes.
const hashReplyHead = 8 + 4 + maxCode
const maxCode = 28

func (m HashReply) append(dst []byte) ([]byte, error) {
	if len(m.Hashes) > MaxHashes || len(m.Code) > maxCode {
		return dst, fmt.Errorf("%w: %d hashes, code %q", ErrTooLarge, len(m.Hashes), m.Code)
	}
	dst = binary.LittleEndian.AppendUint32(appendWords(dst, m.ID), uint32(len(m.Hashes)))
	var code [maxCode]byte
	copy(code[:], m.Code)
	dst = append(dst, code[:]...)
	for i := range m.Hashes {
		dst = append(dst, m.Hashes[i][:]...)
	}
	return dst, nil
}
