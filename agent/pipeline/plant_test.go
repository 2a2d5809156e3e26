package pipeline

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// plant stands for relay and vault: it keeps every frame, spooled at once and
// committed when told, and can lose its spool.
type plant struct {
	mu        sync.Mutex
	log       [][]byte // consecutive frames
	base      map[block.Epoch][][]byte
	committed int // of log
	commitAt  int // length of the log at which it is committed by itself, once
	baseDone  map[block.Epoch]int
}

func newPlant() *plant {
	return &plant{base: map[block.Epoch][][]byte{}, baseDone: map[block.Epoch]int{}}
}

func (p *plant) SendBase(_ context.Context, raw []byte, n uint64) error {
	f, err := frame.Parse(raw)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	have := p.base[f.Epoch]
	switch {
	case n <= uint64(len(have)):
		return nil // sent again
	case n != uint64(len(have))+1:
		return fmt.Errorf("base frame %d after %d", n, len(have))
	}
	p.base[f.Epoch] = append(have, append([]byte(nil), raw...))
	return nil
}

func (p *plant) FlushBase(context.Context) error { return nil }

func (p *plant) RangeHashes(_ context.Context, disk block.DiskID, off, length, granule int64) ([]block.Hash16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	img := p.image(p.committed)[disk]
	if img == nil {
		img = make([]byte, blocks*blockSize)
	}
	return block.AppendHashes(nil, img[off:off+length], granule), nil
}

func (p *plant) ProofHashes(ctx context.Context, _ block.Position, disk block.DiskID, off, length, granule int64) ([]block.Hash16, error) {
	return p.RangeHashes(ctx, disk, off, length, granule)
}

// image is what the vault gives after its first n log frames, by the rule of the
// vault: newest first log, then base, epoch by epoch.
func (p *plant) image(n int) map[block.DiskID][]byte {
	out := map[block.DiskID][]byte{}
	based := block.Epoch(0)
	apply := func(raw []byte) {
		f, err := frame.Parse(raw)
		if err != nil {
			panic(err)
		}
		data, err := f.Payload(nil)
		if err != nil {
			panic(err)
		}
		for e := range f.All() {
			if out[e.Disk] == nil {
				out[e.Disk] = make([]byte, blocks*blockSize)
			}
			dst := out[e.Disk][e.Off:e.End()]
			clear(dst)
			if e.Op == frame.OpWrite {
				copy(dst, data[e.DataOff:])
			}
		}
	}
	for _, raw := range p.log[:n] {
		h, _ := frame.ParseHeader(raw)
		for ; based < h.Epoch; based++ {
			for _, b := range p.base[based+1] {
				apply(b)
			}
		}
		if h.Kind == frame.KindLog {
			apply(raw)
		}
	}
	return out
}

func (p *plant) last() (frame.Header, bool) {
	if len(p.log) == 0 {
		return frame.Header{}, false
	}
	h, _ := frame.ParseHeader(p.log[len(p.log)-1])
	return h, true
}

func (p *plant) welcome() wire.Welcome {
	spooled, committed := p.acks()
	p.mu.Lock()
	defer p.mu.Unlock()
	h, _ := p.last()
	w := wire.Welcome{Epoch: h.Epoch, Spooled: spooled, Closed: h.Closed, Committed: committed}
	for e, frames := range p.base {
		if e >= w.BaseEpoch && len(frames) > 0 {
			w.BaseEpoch, w.SpooledBase = e, uint64(len(frames))
		}
	}
	return w
}

// take appends a frame, which must continue the log.
func (p *plant) take(t *testing.T, raw []byte) block.Seq {
	f, err := frame.Parse(raw)
	if err != nil {
		t.Errorf("the agent sent a bad frame: %v", err)
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if h, ok := p.last(); ok && (f.First != h.Last+1 || f.Epoch < h.Epoch) || !ok && f.First != 1 {
		t.Errorf("frame %d..%d of epoch %d does not continue %d of epoch %d", f.First, f.Last, f.Epoch, h.Last, h.Epoch)
	}
	p.log = append(p.log, slices.Clone(raw))
	if len(p.log) == p.commitAt {
		p.committed = p.commitAt
	}
	return f.Last
}

func (p *plant) acks() (spooled, committed block.Seq) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h, ok := p.last(); ok {
		spooled = h.Last
	}
	if p.committed > 0 {
		h, _ := frame.ParseHeader(p.log[p.committed-1])
		committed = h.Last
	}
	return spooled, committed
}

func (p *plant) baseAck() (epoch block.Epoch, n uint64) {
	w := p.welcome()
	return w.BaseEpoch, w.SpooledBase
}

// commit puts all that is spooled into the vault.
func (p *plant) commit() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.committed = len(p.log)
	for e, frames := range p.base {
		p.baseDone[e] = len(frames)
	}
}

// loseSpool forgets what was not committed.
func (p *plant) loseSpool() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = p.log[:p.committed]
	for e, frames := range p.base {
		p.base[e] = frames[:p.baseDone[e]]
	}
}
