package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/pkg/frame"
)

// Conn speaks the protocol over one stream. One goroutine may read while others
// write.
type Conn struct {
	s      Stream
	banner Banner // the peer's

	head [headerSize]byte // of the message being read
	body []byte           // small bodies, reused

	mu  sync.Mutex // writing
	out []byte     // a message being written, reused
}

// Greet exchanges banners; own is this side's role. The agent speaks first. On a
// version that does not fit, both sides learn the other's before the error returns.
func Greet(s Stream, own Role, build string) (*Conn, error) {
	c := &Conn{s: s}
	say := func() error {
		_, err := io.WriteString(s, Banner{Version: Version, Role: own, Build: build}.String())
		if err == nil {
			err = s.Flush()
		}
		return explain(err)
	}
	hear := func() (err error) {
		c.banner, err = readBanner(s)
		return explain(err)
	}
	steps, want := []func() error{say, hear}, RoleRelay
	if own == RoleRelay {
		steps, want = []func() error{hear, say}, RoleAgent
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if err := c.banner.judge(want); err != nil {
		return nil, err
	}
	return c, nil
}

// Peer is who is at the other end, by its certificate.
func (c *Conn) Peer() Peer { return c.s.Peer() }

// Build is the peer's version, by its banner.
func (c *Conn) Build() string { return c.banner.Build }

// Close ends the channel at once.
func (c *Conn) Close() error { return c.s.Close() }

// Read returns the next message. A Frame's bytes are read into buf, which grows where
// it must: Raw then is the larger buffer for the next call. io.EOF means that the
// peer ended the channel between two messages. An error that wraps one of package
// frame's says that the peer sent a bad frame.
func (c *Conn) Read(buf []byte) (Message, error) {
	return c.ReadInto(func(int) []byte { return buf })
}

// ReadInto is Read for one who waits on many channels: memory is asked for when a frame
// has begun to come, and at no other time. It is told the frame's size; nil will do.
func (c *Conn) ReadInto(memory func(size int) []byte) (Message, error) {
	if _, err := io.ReadFull(c.s, c.head[:]); err != nil {
		return nil, explain(err)
	}
	t, n, err := parseHeader(c.head[:])
	if err != nil {
		return nil, err
	}
	if t == TypeFrame {
		return c.readFrame(memory(n), n)
	}
	if c.body, err = fill(c.s, c.body[:0], n); err != nil {
		return nil, err
	}
	return decode(t, c.body)
}

// readFrame reads a frame's n bytes and judges its header before its body; the rest
// of the judgement is frame.Parse's.
func (c *Conn) readFrame(buf []byte, n int) (Message, error) {
	buf, err := fill(c.s, buf[:0], frame.HeaderSize)
	if err != nil {
		return nil, err
	}
	h, err := frame.ParseHeader(buf)
	if err != nil {
		return nil, err
	}
	if h.Size() != n {
		return nil, fmt.Errorf("%w: a message of %d bytes with a frame of %d", frame.ErrMalformed, n, h.Size())
	}
	buf, err = fill(c.s, buf, n)
	return Frame{Raw: buf}, err
}

// fillStep is how much memory is given for what has not come yet.
const fillStep = 256 << 10

// fill appends to buf from r until it holds n bytes. Memory grows with what has come:
// a peer that announces much and sends little costs little.
func fill(r io.Reader, buf []byte, n int) ([]byte, error) {
	for len(buf) < n {
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, min(n-len(buf), max(len(buf), fillStep)))
		}
		have := len(buf)
		buf = buf[:min(n, cap(buf))]
		if m, err := io.ReadFull(r, buf[have:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return buf[:have+m], explain(err)
		}
	}
	return buf, nil
}

// Write sends one message.
func (c *Conn) Write(m Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f, ok := m.(Frame); ok {
		return c.send(TypeFrame, f.Raw)
	}
	var err error
	if c.out, err = m.append(c.out[:0]); err != nil {
		return err
	}
	return c.send(m.kind(), c.out)
}

// send writes header and body without joining them first: a frame is not copied.
func (c *Conn) send(t Type, body []byte) error {
	if _, high, _ := t.bounds(); len(body) > high {
		return fmt.Errorf("%w: type %d with %d bytes", ErrTooLarge, t, len(body))
	}
	var head [headerSize]byte
	head[0] = byte(t)
	binary.LittleEndian.PutUint32(head[1:], uint32(len(body)))
	if _, err := c.s.Write(head[:]); err != nil {
		return explain(err)
	}
	if _, err := c.s.Write(body); err != nil {
		return explain(err)
	}
	return explain(c.s.Flush())
}

// linger is how long a refused peer has to read why.
const linger = 2 * time.Second

// Refuse sends a last Error and closes. What the peer still sends is read and dropped
// for a moment: closing over unread bytes would reset the connection under TCP and
// could take the Error with it.
func (c *Conn) Refuse(e *Error) error {
	timer := time.AfterFunc(linger, func() { _ = c.s.Close() })
	defer timer.Stop()
	err := c.Write(e)
	if err == nil {
		err = c.s.CloseWrite()
	}
	if err == nil {
		_, _ = io.CopyN(io.Discard, c.s, MaxFrame)
	}
	_ = c.s.Close()
	return err
}
