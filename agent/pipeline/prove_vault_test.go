package pipeline

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/agent/capture/capturetest"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// proofVault stands for relay and vault: every frame at once, and a view of each boundary.
type proofVault struct {
	rng  *rand.Rand
	mu   sync.Mutex
	log  [][]byte
	base map[block.Epoch][][]byte
	// spoilt is wrong in the views of epochs up to its own, unless a base lies above;
	// unusable says that they cannot be given at all.
	spoilt   *block.DiskExtent
	until    block.Epoch
	unusable bool
}

func (v *proofVault) welcome() wire.Welcome {
	v.mu.Lock()
	defer v.mu.Unlock()
	var w wire.Welcome
	if n := len(v.log); n > 0 {
		h, _ := frame.ParseHeader(v.log[n-1])
		w.Epoch, w.Spooled, w.Committed = h.Epoch, h.Last, h.Last
	}
	for e, frames := range v.base {
		if e >= w.BaseEpoch {
			w.BaseEpoch, w.SpooledBase, w.CommittedBase = e, uint64(len(frames)), uint64(len(frames))
		}
	}
	return w
}

func (v *proofVault) take(raw []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.log = append(v.log, slices.Clone(raw))
}

func (v *proofVault) baseOf(e block.Epoch) [][]byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.base[e]
}

func (v *proofVault) SendBase(_ context.Context, raw []byte, n uint64) error {
	h, err := frame.ParseHeader(raw)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err == nil && n == uint64(len(v.base[h.Epoch]))+1 {
		v.base[h.Epoch] = append(v.base[h.Epoch], slices.Clone(raw))
	}
	return err
}

func (v *proofVault) FlushBase(context.Context) error { return nil }

func (v *proofVault) RangeHashes(_ context.Context, disk block.DiskID, off, length, granule int64) ([]block.Hash16, error) {
	data, _, err := v.view(block.Position{Epoch: 1 << 40, Seq: 1 << 60}, disk)
	return block.AppendHashes(nil, data[off:off+length], granule), err
}

func (v *proofVault) ProofHashes(_ context.Context, at block.Position, disk block.DiskID, off, length, granule int64) ([]block.Hash16, error) {
	time.Sleep(2 * time.Millisecond)
	data, has, err := v.view(at, disk)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if x := v.spoilt; v.unusable && at.Epoch <= v.until && x.Disk == disk && x.Overlaps(block.Extent{Off: off, Len: length}) {
		return nil, wire.Refuse(wire.CodeHashesDamaged, "", "damaged")
	}
	var out []block.Hash16
	for g := off; g < off+length; g += granule {
		if !slices.Contains(has[g/512:(g+granule)/512], true) {
			out = append(out, block.NoData)
			continue
		}
		out = append(out, block.AppendHashes(nil, data[g:g+granule], granule)...)
	}
	return out, nil
}

// view is a disk at a boundary, and where a write is what it shows.
func (v *proofVault) view(at block.Position, disk block.DiskID) (data []byte, has []bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	data, has = make([]byte, proofCells*capturetest.Cell), make([]bool, proofCells*capturetest.Cell/512)
	apply := func(raw []byte) {
		f, perr := frame.Parse(raw)
		if perr != nil {
			err = perr
			return
		}
		payload, perr := f.Payload(nil)
		err = errors.Join(err, perr)
		for e := range f.All() {
			if e.Disk != disk {
				continue
			}
			clear(data[e.Off:e.End()])
			if e.Op == frame.OpWrite {
				copy(data[e.Off:e.End()], payload[e.DataOff:])
			}
			for s := e.Off / 512; s < e.End()/512; s++ {
				has[s] = e.Op == frame.OpWrite
			}
		}
	}
	based := block.Epoch(0)
	enter := func(e block.Epoch) {
		for ; based < e; based++ {
			if v.spoilt != nil && based == v.until {
				v.spoil(data, disk)
			}
			for _, raw := range v.base[based+1] {
				apply(raw)
			}
		}
	}
	for _, raw := range v.log {
		h, _ := frame.ParseHeader(raw)
		if at.Before(block.Position{Epoch: h.Epoch, Seq: h.Last}) {
			break
		}
		enter(h.Epoch)
		if h.Kind == frame.KindLog {
			apply(raw)
		}
	}
	if v.spoilt != nil && based == v.until {
		v.spoil(data, disk)
	}
	return data, has, err
}

func (v *proofVault) spoil(data []byte, disk block.DiskID) {
	if v.spoilt.Disk == disk && !v.unusable {
		data[v.spoilt.Off] ^= 1
	}
}

// await runs until the condition holds.
