package ship

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// readControl takes what the relay says on the control channel.
func (c *Client) readControl(conn *wire.Conn) error {
	defer c.hashes.abandon()
	for {
		msg, err := conn.Read(nil)
		if err != nil {
			return fmt.Errorf("ship: the control channel: %w", err)
		}
		switch msg := msg.(type) {
		case wire.Pong:
			c.rtt.Store(max(0, time.Now().UnixNano()-int64(msg.ID)))
		case wire.Ping:
			if err := conn.Write(wire.Pong(msg)); err != nil {
				return err
			}
		case wire.HashReply:
			c.hashes.answer(msg)
		case *wire.Error:
			return fmt.Errorf("ship: the relay ended the session: %w", msg)
		default:
			return fmt.Errorf("ship: a %T has no place on the control channel", msg)
		}
	}
}

// hashCall is one request for range hashes and its answer's place.
type hashCall struct {
	request wire.HashRequest
	reply   chan wire.HashReply // one answer, or closed when the session ended
}

// hashCalls brings requests to whichever session lives.
type hashCalls struct {
	calls chan *hashCall

	mu     sync.Mutex
	last   uint64
	asked  map[uint64]*hashCall
	paused time.Duration
}

func newHashCalls() *hashCalls {
	return &hashCalls{calls: make(chan *hashCall), asked: make(map[uint64]*hashCall), paused: time.Second}
}

// askHashes sends requests as they come.
func (c *Client) askHashes(ctx context.Context, conn *wire.Conn) error {
	for {
		select {
		case call := <-c.hashes.calls:
			c.hashes.note(call)
			if err := conn.Write(call.request); err != nil {
				c.hashes.abandon()
				return err
			}
		case <-ctx.Done():
			c.hashes.abandon()
			return nil
		}
	}
}

func (h *hashCalls) note(call *hashCall) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last++
	call.request.ID = h.last
	h.asked[h.last] = call
}

func (h *hashCalls) answer(r wire.HashReply) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if call := h.asked[r.ID]; call != nil {
		delete(h.asked, r.ID)
		call.reply <- r
	}
}

// abandon tells everybody who waits that their answer will not come.
func (h *hashCalls) abandon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, call := range h.asked {
		delete(h.asked, id)
		close(call.reply)
	}
}

// ErrHashesRefused says that the relay will not answer this request, ever.
var ErrHashesRefused = errors.New("ship: the relay refused a request for range hashes")

// RangeHashes asks for the vault's range hashes of a stretch of one of this machine's
// disks: one for each granule (bytes) from off, a multiple of it. It waits for a
// session, asks again after a cut, and for as long as the vault cannot tell; it ends
// with ctx or when the relay refuses.
func (c *Client) RangeHashes(ctx context.Context, disk block.DiskID, off, n, granule int64) ([]block.Hash16, error) {
	return c.ProofHashes(ctx, block.Position{}, disk, off, n, granule)
}

// ProofHashes is RangeHashes of bytes that the vault reads anew, as of a frame boundary.
// It also ends with a *wire.Error where the vault cannot tell: CodeHashesDamaged if what
// it stores cannot be used, CodeHashesNoPoint if it does not have the position.
func (c *Client) ProofHashes(ctx context.Context, at block.Position, disk block.DiskID, off, n, granule int64) ([]block.Hash16, error) {
	var all []block.Hash16
	for step := wire.MaxHashes * granule; n > 0; {
		part := min(n, step)
		hashes, err := c.someHashes(ctx, wire.HashRequest{Disk: disk, Off: off, Len: part, Granule: granule, At: at})
		if err != nil {
			return nil, err
		}
		all = append(all, hashes...)
		off, n = off+part, n-part
	}
	return all, nil
}

func (c *Client) someHashes(ctx context.Context, r wire.HashRequest) ([]block.Hash16, error) {
	for {
		call := &hashCall{request: r, reply: make(chan wire.HashReply, 1)}
		select {
		case c.hashes.calls <- call:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		select {
		case reply, ok := <-call.reply:
			switch {
			case ok && reply.Code == "" && int64(len(reply.Hashes)) == r.Count():
				return reply.Hashes, nil
			case ok && (reply.Code == wire.CodeHashesDamaged || reply.Code == wire.CodeHashesNoPoint):
				return nil, wire.Refuse(reply.Code, "", "the vault cannot give %d bytes at %d of disk %s as of %s", r.Len, r.Off, r.Disk, r.At)
			case ok && reply.Code == wire.CodeHashesRefused:
				return nil, fmt.Errorf("%w: %d bytes at %d of disk %s", ErrHashesRefused, r.Len, r.Off, r.Disk)
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		t := time.NewTimer(c.hashes.paused)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, context.Cause(ctx)
		}
	}
}
