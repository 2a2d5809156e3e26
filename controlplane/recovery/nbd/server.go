// Package nbd serves disks over the network block device protocol: fixed newstyle,
// several exports and connections, structured replies, block status.
package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/controlplane/recovery"
)

// maxPayload is the most data in one request, in bytes; what every client may
// assume of every server.
const maxPayload = 32 << 20

// preferredBlock is what is announced as a good size and alignment, in bytes: that
// of an overlay's copy-on-write.
const preferredBlock = 64 << 10

// Writer is a disk that can be written. An Image with these methods is exported
// writable. They are called concurrently.
type Writer interface {
	io.WriterAt
	// Zero makes the bytes read as zeros, and with hole may give their space back.
	Zero(off, length int64, hole bool) error
	// Sync makes durable every write that returned before it was called, through
	// whichever connection it came: that is what is announced to clients.
	Sync() error
}

// Export is one disk on offer.
type Export struct {
	Name        string
	Description string // for humans, may be empty
	Image       recovery.Image
	ReadOnly    bool // even if Image is a Writer
}

// writer is where writes go, nil for a read-only export.
func (e *Export) writer() Writer {
	w, ok := e.Image.(Writer)
	if !ok || e.ReadOnly {
		return nil
	}
	return w
}

// Options bound the server. The most memory that clients can make it hold is
// MaxConns * Memory.
type Options struct {
	Log      *slog.Logger  // nil: none
	MaxConns int           // more are turned away; 0 means 32
	InFlight int           // requests at once of one connection; 0 means 64
	Memory   int64         // for requests at once of one connection, bytes; 0 means 32 MiB, which is also the least
	Patience time.Duration // for a client to finish its handshake; 0 means 10 s
	Grace    time.Duration // for requests to finish after the context is done; 0 means 10 s
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.MaxConns = orDefault(o.MaxConns, 32)
	o.InFlight = orDefault(o.InFlight, 64)
	o.Memory = max(o.Memory, maxPayload)
	o.Patience = orDefault(o.Patience, 10*time.Second)
	o.Grace = orDefault(o.Grace, 10*time.Second)
	return o
}

func orDefault[T int | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// Server serves a fixed set of exports on any number of listeners.
type Server struct {
	exports []*Export
	opts    Options
	buffers buffers
	conns   atomic.Int64
}

// New checks the exports. A client that names none gets the only one there is.
func New(exports []Export, opts Options) (*Server, error) {
	s := &Server{opts: opts.withDefaults()}
	for _, e := range exports {
		if e.Name == "" || !validText(e.Name) || !validText(e.Description) {
			return nil, fmt.Errorf("nbd: %q is not a name for an export: want up to %d bytes of text", e.Name, maxName)
		}
		if s.find(e.Name) != nil {
			return nil, fmt.Errorf("nbd: two exports have the name %q", e.Name)
		}
		s.exports = append(s.exports, &e)
	}
	return s, nil
}

// find is the export of that name, or nil.
func (s *Server) find(name string) *Export {
	for _, e := range s.exports {
		if e.Name == name || name == "" && len(s.exports) == 1 {
			return e
		}
	}
	return nil
}

// Conns is the number of connected clients.
func (s *Server) Conns() int { return int(s.conns.Load()) }

// Serve accepts clients until ctx is done. Then it takes no more requests, answers
// those it has, waits for that for at most Grace, and returns nil. When it returns,
// no export is in use by this listener any more. It closes the listener.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	drain, startDrain := context.WithCancel(ctx)
	defer startDrain()
	hard, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer context.AfterFunc(ctx, func() { ln.Close() })()

	var clients sync.WaitGroup
	err := s.accept(ctx, ln, func(nc net.Conn) {
		clients.Go(func() { s.handle(drain, hard, nc) })
	})
	startDrain()
	patience := time.AfterFunc(s.opts.Grace, cut)
	defer patience.Stop()
	clients.Wait()
	return errors.Join(err, ignoreClosed(ln.Close()))
}

// accept hands on clients until the listener is closed.
func (s *Server) accept(ctx context.Context, ln net.Listener, serve func(net.Conn)) error {
	for {
		nc, err := ln.Accept()
		switch {
		case err == nil && s.conns.Add(1) > int64(s.opts.MaxConns):
			s.conns.Add(-1)
			s.opts.Log.Warn("client turned away: too many connections", "remote", nc.RemoteAddr(), "limit", s.opts.MaxConns)
			nc.Close()
		case err == nil:
			serve(nc)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("nbd: the listener was closed: %w", err)
		default: // out of descriptors, a client gone before it was accepted: it passes
			s.opts.Log.Warn("accepting a client failed", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
