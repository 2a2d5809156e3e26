package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// bounds are the shortest and the longest body a type can have, judged before a byte
// of the body is read.
func (t Type) bounds() (low, high int, ok bool) {
	switch t {
	case TypeHello, TypeWelcome, TypeError:
		return 2, MaxControl, true
	case TypeFrame:
		return frame.HeaderSize, MaxFrame, true
	case TypeAck:
		return 32, 32, true
	case TypePing, TypePong:
		return 8, 8, true
	case TypeHashRequest:
		return hashRequestSize, hashRequestAt, true
	case TypeHashReply:
		return hashReplyHead, maxReply, true
	}
	return 0, 0, false
}

// parseHeader judges a message's first headerSize bytes.
func parseHeader(b []byte) (Type, int, error) {
	t, n := Type(b[0]), binary.LittleEndian.Uint32(b[1:headerSize])
	low, high, ok := t.bounds()
	switch {
	case !ok:
		return t, 0, fmt.Errorf("%w: %d", ErrUnknownType, t)
	case uint64(n) > uint64(high):
		return t, 0, fmt.Errorf("%w: type %d announces %d bytes, at most %d are allowed", ErrTooLarge, t, n, high)
	case int(n) < low:
		return t, 0, fmt.Errorf("%w: type %d announces %d bytes, at least %d are needed", ErrMalformed, t, n, low)
	}
	return t, int(n), nil
}

// decode reads the body of any type but Frame; nothing in the result refers to body.
func decode(t Type, body []byte) (Message, error) {
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(body[8*i:]) }
	switch t {
	case TypeHello:
		return decodeHello(body)
	case TypeWelcome:
		return decodeJSON[Welcome](body)
	case TypeError:
		e, err := decodeJSON[Error](body)
		return &e, err
	case TypeAck:
		return Ack{Epoch: block.Epoch(word(0)), Spooled: word(1), Committed: word(2), Credit: word(3)}, nil
	case TypePing:
		return Ping{ID: word(0)}, nil
	case TypePong:
		return Pong{ID: word(0)}, nil
	case TypeHashRequest:
		return decodeHashRequest(body)
	case TypeHashReply:
		return decodeHashReply(body)
	}
	return nil, fmt.Errorf("%w: %d", ErrUnknownType, t)
}

func decodeJSON[T any](body []byte) (v T, err error) {
	if err := json.Unmarshal(body, &v); err != nil {
		return v, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return v, nil
}

func decodeHello(body []byte) (Message, error) {
	h, err := decodeJSON[Hello](body)
	switch {
	case err != nil:
		return h, err
	case h.Machine.IsZero() || !h.Channel.Valid() || h.Instance == "" || len(h.Instance) > 64:
		return h, fmt.Errorf("%w: a hello with machine %s, channel %q and an instance of %d letters", ErrMalformed, h.Machine, h.Channel, len(h.Instance))
	}
	return h, nil
}

// A hash request's body without and with a position.
const (
	hashRequestSize = 48
	hashRequestAt   = hashRequestSize + 16
)

func decodeHashRequest(body []byte) (Message, error) {
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(body[8*i:]) }
	r := HashRequest{ID: word(0), Disk: block.DiskID(body[8:24]), Off: int64(word(3)), Len: int64(word(4)), Granule: int64(word(5))}
	switch len(body) {
	case hashRequestSize:
		return r, nil
	case hashRequestAt:
		r.At = block.Position{Epoch: block.Epoch(word(6)), Seq: block.Seq(word(7))}
		if r.At == (block.Position{}) {
			return nil, fmt.Errorf("%w: a hash request at no position has no place for one", ErrMalformed)
		}
		return r, nil
	}
	return nil, fmt.Errorf("%w: a hash request of %d bytes", ErrMalformed, len(body))
}

func decodeHashReply(body []byte) (Message, error) {
	n := int(binary.LittleEndian.Uint32(body[8:]))
	code := Code(bytes.TrimRight(body[12:hashReplyHead], "\x00"))
	if hashes := body[hashReplyHead:]; len(hashes) != n*block.HashSize || code != "" && n > 0 {
		return nil, fmt.Errorf("%w: a reply of %d hashes with %d bytes of them", ErrMalformed, n, len(hashes))
	}
	r := HashReply{ID: binary.LittleEndian.Uint64(body), Code: code, Hashes: make([]block.Hash16, n)}
	for i := range r.Hashes {
		r.Hashes[i] = block.Hash16(body[hashReplyHead+i*block.HashSize:])
	}
	return r, nil
}
