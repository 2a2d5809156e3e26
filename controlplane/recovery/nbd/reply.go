package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"math"

	"github.com/understudy-dr/understudy/controlplane/recovery"
)

// maxDescriptors is the most extents in one answer to a block status; the client
// asks again where the answer ends.
const maxDescriptors = 8192

// send writes one whole message.
func (c *conn) send(b []byte) error {
	c.out.Lock()
	defer c.out.Unlock()
	_, err := c.nc.Write(b)
	return err
}

// sendOK answers a request that has no data to return.
func (c *conn) sendOK(r request) error {
	var b [simpleSize]byte
	putSimple(b[:], r.cookie, 0)
	return c.send(b[:])
}

// sendData answers a read from a buffer, whose headroom takes the header.
func (c *conn) sendData(r request, b *buffer) error {
	if !c.structured {
		at := headroom - simpleSize
		putSimple(b.all[at:], r.cookie, 0)
		return c.send(b.all[at:])
	}
	if r.length == 0 { // a chunk of data must not be empty
		return c.sendChunk(r, chunkNone, nil)
	}
	putChunk(b.all, chunkDone, chunkOffsetData, r.cookie, 8+r.length)
	binary.BigEndian.PutUint64(b.all[chunkSize:], r.offset)
	return c.send(b.all)
}

// sendChunk answers with a single structured chunk.
func (c *conn) sendChunk(r request, kind uint16, payload []byte) error {
	b := make([]byte, chunkSize, chunkSize+len(payload))
	putChunk(b, chunkDone, kind, r.cookie, uint32(len(payload)))
	return c.send(append(b, payload...))
}

// fail answers with an error, in words too where the client takes them.
func (c *conn) fail(r request, err error) error {
	e := errnoOf(err)
	if refused := (*refusal)(nil); !errors.As(err, &refused) && e != errShutdown {
		c.log.Warn("request failed", "export", c.export.Name, "command", r.cmd.String(), "offset", r.offset, "length", r.length, "err", err)
	}
	if !c.structured {
		var b [simpleSize]byte
		putSimple(b[:], r.cookie, e)
		return c.send(b[:])
	}
	text := err.Error()
	text = text[:min(len(text), maxName)]
	b := binary.BigEndian.AppendUint32(nil, uint32(e))
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return c.sendChunk(r, chunkError, append(b, text...))
}

// blockStatus describes [offset, offset+length) for base:allocation.
func (c *conn) blockStatus(alive context.Context, r request) ([]byte, error) {
	limit := maxDescriptors
	if r.flags&cmdFlagReqOne != 0 {
		limit = 1
	}
	b := binary.BigEndian.AppendUint32(nil, allocationID)
	for e, err := range recovery.Map(alive, c.export.Image, int64(r.offset), int64(r.length)) {
		if err != nil {
			return nil, err
		}
		state := uint32(0)
		if e.Zero {
			state = stateHole | stateZero
		}
		b = binary.BigEndian.AppendUint32(b, uint32(min(e.Len, math.MaxUint32)))
		b = binary.BigEndian.AppendUint32(b, state)
		if limit--; limit == 0 {
			break
		}
	}
	if len(b) == 4 {
		return nil, refusef(errInvalid, "block status of nothing")
	}
	return b, nil
}
