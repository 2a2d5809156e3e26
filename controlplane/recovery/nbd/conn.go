package nbd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/understudy-dr/understudy/controlplane/recovery"
)

// sendBuffer is what the system is asked to buffer towards a client, in bytes: more
// than a usual reply, so that sending one seldom has to wait.
const sendBuffer = 1 << 20

// conn is one client.
type conn struct {
	srv *Server
	nc  net.Conn
	in  *bufio.Reader
	log *slog.Logger
	session

	slots  *semaphore.Weighted // requests at once
	memory *semaphore.Weighted // bytes of their buffers
	flying sync.WaitGroup

	out sync.Mutex // one reply at a time
}

// handle serves one client to its end. When drain is done no more requests are
// taken; when hard is done the connection is cut.
func (s *Server) handle(drain, hard context.Context, nc net.Conn) {
	defer s.conns.Add(-1)
	defer nc.Close()
	defer context.AfterFunc(hard, func() { nc.Close() })()
	defer context.AfterFunc(drain, func() { _ = nc.SetReadDeadline(time.Unix(1, 0)) })()
	if sock, ok := nc.(interface{ SetWriteBuffer(int) error }); ok {
		_ = sock.SetWriteBuffer(sendBuffer) // a hint; the system has its own limit
	}
	c := &conn{
		srv:    s,
		nc:     nc,
		in:     bufio.NewReaderSize(nc, 16<<10),
		log:    s.opts.Log.With("remote", nc.RemoteAddr()),
		slots:  semaphore.NewWeighted(int64(s.opts.InFlight)),
		memory: semaphore.NewWeighted(s.opts.Memory),
	}
	if err := c.begin(drain); err != nil {
		c.log.Info("no session with client", "reason", err)
		return
	}
	c.log.Info("client connected", "export", c.export.Name)
	alive, gone := context.WithCancel(hard)
	err := c.transmit(alive)
	if drain.Err() == nil {
		gone() // nobody waits for the answers: stop looking extents up
	}
	c.flying.Wait()
	gone()
	if drain.Err() != nil {
		c.part()
	}
	if drain.Err() != nil || errors.Is(err, io.EOF) {
		err = nil
	}
	c.log.Info("client gone", "export", c.export.Name, "reason", err)
}

// part ends a session that the client did not end. A socket that is closed with
// something unread may take the last answers with it, so first the client is told
// that nothing more comes, and given a moment to hang up.
func (c *conn) part() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = io.Copy(io.Discard, c.nc)
}

// begin does the handshake within the server's patience.
func (c *conn) begin(drain context.Context) error {
	_ = c.nc.SetDeadline(time.Now().Add(c.srv.opts.Patience))
	s, err := c.negotiate()
	if err != nil {
		return err
	}
	c.session = s
	_ = c.nc.SetDeadline(time.Time{})
	return drain.Err() // the line above may have undone the drain's deadline
}

// transmit takes requests until the client ends, and leaves each to a goroutine.
func (c *conn) transmit(alive context.Context) error {
	var head [requestSize]byte
	for {
		if _, err := io.ReadFull(c.in, head[:]); err != nil {
			return err
		}
		r, err := decodeRequest(&head)
		if err != nil {
			return err
		}
		if r.cmd == cmdDisconnect {
			return nil
		}
		if err := c.take(alive, r); err != nil {
			return err
		}
	}
}

// take reads the rest of a request as soon as there is room for it, and starts it.
func (c *conn) take(alive context.Context, r request) error {
	if r.cmd == cmdWrite && r.length > maxPayload {
		return fmt.Errorf("a write of %d bytes: %d are the most", r.length, maxPayload)
	}
	refused := r.check(c.export.Image.Size(), c.export.writer() != nil, c.mapped == c.export)
	if refused != nil && r.cmd == cmdWrite {
		if _, err := io.CopyN(io.Discard, c.in, int64(r.length)); err != nil {
			return err
		}
	}
	if err := c.slots.Acquire(alive, 1); err != nil {
		return err
	}
	var b *buffer
	var size int64
	if refused == nil && (r.cmd == cmdWrite || r.cmd == cmdRead) {
		if _, size = classOf(r.length); c.memory.Acquire(alive, size) != nil {
			return alive.Err()
		}
		b = c.srv.buffers.get(r.length)
		if r.cmd == cmdWrite {
			if _, err := io.ReadFull(c.in, b.data()); err != nil {
				return err
			}
		}
	}
	c.flying.Go(func() {
		if err := c.serve(alive, r, b, refused); err != nil {
			c.nc.Close() // the reader sees it and ends the session
		}
		if b != nil {
			c.srv.buffers.put(b)
			c.memory.Release(size)
		}
		c.slots.Release(1)
	})
	return nil
}

// serve does one request and answers it. An error means that the client cannot be
// answered any more.
func (c *conn) serve(alive context.Context, r request, b *buffer, refused error) error {
	if refused != nil {
		return c.fail(r, refused)
	}
	switch r.cmd {
	case cmdRead:
		if err := recovery.ReadFull(c.export.Image, b.data(), int64(r.offset)); err != nil {
			return c.fail(r, err)
		}
		return c.sendData(r, b)
	case cmdBlockStatus:
		payload, err := c.blockStatus(alive, r)
		if err != nil {
			return c.fail(r, err)
		}
		return c.sendChunk(r, chunkBlockStatus, payload)
	}
	if err := c.change(r, b); err != nil {
		return c.fail(r, err)
	}
	return c.sendOK(r)
}

// change does a request that writes or syncs.
func (c *conn) change(r request, b *buffer) (err error) {
	w := c.export.writer()
	if w == nil {
		return nil // a flush of what cannot change
	}
	off, length := int64(r.offset), int64(r.length)
	switch r.cmd {
	case cmdWrite:
		_, err = w.WriteAt(b.data(), off)
	case cmdTrim:
		err = w.Zero(off, length, true)
	case cmdWriteZeroes:
		err = w.Zero(off, length, r.flags&cmdFlagNoHole == 0)
	case cmdFlush:
		return w.Sync()
	}
	if err == nil && r.flags&cmdFlagFUA != 0 {
		err = w.Sync()
	}
	return err
}

// errnoOf is what the client is told of an error.
func errnoOf(err error) errno {
	var r *refusal
	switch {
	case errors.As(err, &r):
		return r.errno
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return errNoSpace
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EROFS):
		return errPerm
	case errors.Is(err, context.Canceled):
		return errShutdown
	}
	return errIO
}
