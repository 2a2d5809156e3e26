package vault

import (
	"context"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// A proof compares the vault with a living disk, so it must not believe what this
// process remembers of the vault, nor a hash that was stored beside the data: its
// hashes are made of bytes that were read from the store, decrypted and decompressed
// for it. What it takes for known is which objects there are. Their indexes are read
// anew every provedFor, because a history has thousands and a proof passes over all of
// them for each stretch of a disk.
const provedFor = 10 * time.Minute

// proofPayloads bounds the memory for payloads of which a proof will read more.
const proofPayloads = 32 << 20

// prover keeps what a proof reads more than once.
type prover struct {
	indexes *cache[string, frames]
	view    *View
}

// ProofHashes are the range hashes of n bytes of a disk from off on as of a frame
// boundary, of bytes read anew; block.NoData where the vault holds none. Errors are an
// ErrNoPoint where the position cannot be told (any more, or yet) and ErrDamaged where
// an object that holds the bytes cannot be used.
func (m *Machine) ProofHashes(ctx context.Context, p block.Position, disk block.DiskID, off, n, granule int64) ([]block.Hash16, error) {
	if err := checkHashes(off, n, granule); err != nil {
		return nil, err
	}
	v, err := m.proofView(ctx, p)
	if err != nil {
		return nil, err
	}
	return v.hashes(ctx, disk, off, n, granule, true)
}

// proofView is the view of a position that a proof asks for. It is kept for the next
// question: a proof asks many about one position.
func (m *Machine) proofView(ctx context.Context, p block.Position) (*View, error) {
	c, err := m.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	e := c.epoch(p.Epoch)
	switch {
	case e == nil || c.last.pos.Before(p):
		return nil, c.noPoint(p.String(), "the vault does not reach it")
	case c.torn(p.Epoch):
		return nil, c.damage[0]
	case !c.reaches(p):
		return nil, c.noPoint(p.String(), "it is no longer the end of a run")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proving == nil {
		m.proving = m.newProver()
	}
	if q := m.proving; q.view == nil || q.view.point != p {
		q.view = &View{m: m.apart(q.indexes), point: p, disks: e.Disks, layers: c.layers(p), unretained: true}
	}
	return m.proving.view, nil
}

// newProver makes one that forgets itself. The caller holds mu.
func (m *Machine) newProver() *prover {
	q := &prover{indexes: newCache[string, frames](m.v.opts.IndexCache)}
	time.AfterFunc(provedFor, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.proving == q {
			m.proving = nil
		}
	})
	return q
}

// apart is the machine as another process would see it: without what is cached here.
func (m *Machine) apart(indexes *cache[string, frames]) *Machine {
	f := m.fetcher
	f.indexes, f.payloads = indexes, newCache[unit, []byte](proofPayloads)
	return &Machine{fetcher: f, views: make(map[block.Position]int)}
}
