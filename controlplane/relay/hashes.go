package relay

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/wire"
)

const (
	hashesAtOnce = 16 // requests, over all machines: each may read a good part of a disk
	hashesEach   = 4  // of one machine
	hashTimeout  = time.Minute
)

// hashes answers a request for range hashes of the machine's own disks, beside the
// reader: heartbeats must not wait for a disk's worth of hashing.
func (s *Server) hashes(c *channel, r wire.HashRequest) error {
	select {
	case c.hashing <- struct{}{}:
	default:
		return c.conn.Write(wire.HashReply{ID: r.ID, Code: wire.CodeBusy})
	}
	s.wg.Go(func() {
		defer func() { <-c.hashing }()
		reply := wire.HashReply{ID: r.ID}
		hashes, err := s.rangeHashes(c, r)
		var refusal *wire.Error
		switch {
		case err == nil:
			reply.Hashes = hashes
		case errors.As(err, &refusal):
			reply.Code = refusal.Code
		default:
			reply.Code = hashesCode(err)
			s.conf.Log.Warn("range hashes failed", "machine", c.m.id, "disk", r.Disk, "err", err)
		}
		if err := c.conn.Write(reply); err != nil {
			c.cancel(err)
		}
	})
	return nil
}

// hashesCode is what an agent must tell apart: damage is a finding, a position that is
// gone is asked for no more, everything else passes.
func hashesCode(err error) wire.Code {
	switch {
	case errors.Is(err, ErrVaultDamaged):
		return wire.CodeHashesDamaged
	case errors.Is(err, ErrVaultNoPoint):
		return wire.CodeHashesNoPoint
	}
	return wire.CodeHashesFailed
}

func (s *Server) rangeHashes(c *channel, r wire.HashRequest) ([]block.Hash16, error) {
	if r.Disk.IsZero() || r.Off < 0 || r.Len <= 0 || r.Off > math.MaxInt64-r.Len ||
		(r.Granule != block.CoarseGranule && r.Granule != block.FineGranule) || r.Off%r.Granule != 0 || r.Count() > wire.MaxHashes {
		return nil, wire.Refuse(wire.CodeHashesRefused, "", "hashes of %d bytes at %d by %d", r.Len, r.Off, r.Granule)
	}
	select {
	case s.hashing <- struct{}{}:
		defer func() { <-s.hashing }()
	case <-c.ctx.Done():
		return nil, context.Cause(c.ctx)
	}
	ctx, cancel := context.WithTimeout(c.ctx, hashTimeout)
	defer cancel()
	hashes, err := s.conf.Vault.RangeHashes(ctx, c.m.id, r.At, r.Disk, r.Off, r.Len, r.Granule)
	if err == nil && int64(len(hashes)) != r.Count() {
		err = fmt.Errorf("the vault gave %d hashes for %d granules", len(hashes), r.Count())
	}
	return hashes, err
}
