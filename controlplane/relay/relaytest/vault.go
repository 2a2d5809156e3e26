// Package relaytest is a vault in memory for tests of the relay: it takes nothing that
// a real one would have to refuse, and fails on order.
package relaytest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/understudy-dr/understudy/controlplane/relay"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// Vault keeps every frame. The zero Vault is empty and ready.
type Vault struct {
	mu       sync.Mutex
	machines map[block.MachineID]*history
	open     func(block.MachineID) error
	before   func(context.Context, block.MachineID) error
	after    func(block.MachineID) error
	hashes   func(block.MachineID, block.Position, block.DiskID, int64, int64, int64) ([]block.Hash16, error)
	forget   bool
	baseless bool
}

// history is one machine's part.
type history struct {
	generation int
	state      relay.State
	log        [][]byte
	base       map[block.Epoch][][]byte
	objects    int
}

// OnOpen makes OpenWriter fail while f returns an error.
func (v *Vault) OnOpen(f func(block.MachineID) error) { v.mu.Lock(); defer v.mu.Unlock(); v.open = f }

// OnCommit runs before each Commit, outside of any lock: it may wait, or fail it.
func (v *Vault) OnCommit(f func(context.Context, block.MachineID) error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.before = f
}

// AfterCommit runs behind each Commit that was taken: its error is what the relay sees
// though the frames are in the vault.
func (v *Vault) AfterCommit(f func(block.MachineID) error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.after = f
}

// OnHashes answers RangeHashes.
func (v *Vault) OnHashes(f func(m block.MachineID, at block.Position, d block.DiskID, off, n, granule int64) ([]block.Hash16, error)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.hashes = f
}

// Forget makes the vault check frames and keep none: for benchmarks.
func (v *Vault) Forget() { v.mu.Lock(); defer v.mu.Unlock(); v.forget = true }

// AllowMissingBase lets a base-complete mark in whose base is not there: the vault
// offers no points of such an epoch.
func (v *Vault) AllowMissingBase() { v.mu.Lock(); defer v.mu.Unlock(); v.baseless = true }

func (v *Vault) history(m block.MachineID) *history {
	if v.machines == nil {
		v.machines = make(map[block.MachineID]*history)
	}
	h := v.machines[m]
	if h == nil {
		h = &history{base: make(map[block.Epoch][][]byte), state: relay.State{Base: make(map[block.Epoch]uint64)}}
		v.machines[m] = h
	}
	return h
}

// Log is the machine's log frames in the order in which they came.
func (v *Vault) Log(m block.MachineID) [][]byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.history(m).log)
}

// Base is an epoch's base frames in the order in which they came.
func (v *Vault) Base(m block.MachineID, e block.Epoch) [][]byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.history(m).base[e])
}

// Objects is how many objects the machine has.
func (v *Vault) Objects(m block.MachineID) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.history(m).objects
}

// State is the machine's.
func (v *Vault) State(m block.MachineID) relay.State {
	v.mu.Lock()
	defer v.mu.Unlock()
	st := v.history(m).state
	st.Base = maps.Clone(st.Base)
	return st
}

// Rollback sets the machine's log back to n frames, like a vault restored from a copy.
func (v *Vault) Rollback(m block.MachineID, n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	h := v.history(m)
	h.log = h.log[:n]
	h.generation++
	h.state.Last = block.Position{}
	if n > 0 {
		f, _ := frame.ParseHeader(h.log[n-1])
		h.state.Last, h.state.Closed = f.Position(), f.Closed
	}
}

// OpenWriter takes the lease: writers opened before lose it.
func (v *Vault) OpenWriter(_ context.Context, m block.MachineID) (relay.Writer, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.open != nil {
		if err := v.open(m); err != nil {
			return nil, err
		}
	}
	h := v.history(m)
	h.generation++
	return &writer{v: v, m: m, generation: h.generation}, nil
}

// RangeHashes answers by OnHashes.
func (v *Vault) RangeHashes(_ context.Context, m block.MachineID, at block.Position, d block.DiskID, off, n, granule int64) ([]block.Hash16, error) {
	v.mu.Lock()
	f := v.hashes
	v.mu.Unlock()
	return f(m, at, d, off, n, granule)
}

type writer struct {
	v          *Vault
	m          block.MachineID
	generation int
}

func (w *writer) State() relay.State { return w.v.State(w.m) }
func (w *writer) Close() error       { return nil }

func (w *writer) Commit(ctx context.Context, frames [][]byte) error {
	w.v.mu.Lock()
	before, after := w.v.before, w.v.after
	w.v.mu.Unlock()
	if before != nil {
		if err := before(ctx, w.m); err != nil {
			return err
		}
	}
	if err := w.take(frames); err != nil {
		return err
	}
	if after != nil {
		return after(w.m)
	}
	return nil
}

func (w *writer) take(frames [][]byte) error {
	w.v.mu.Lock()
	defer w.v.mu.Unlock()
	h := w.v.history(w.m)
	if h.generation != w.generation {
		return fmt.Errorf("generation %d is over: %w", w.generation, relay.ErrLeaseLost)
	}
	next := h.state
	next.Base = maps.Clone(next.Base)
	var epoch block.Epoch
	for i, raw := range frames {
		f, err := frame.Parse(raw)
		if err != nil {
			return err
		}
		if i > 0 && f.Epoch != epoch {
			panic(fmt.Sprintf("an object of epochs %d and %d", epoch, f.Epoch))
		}
		epoch = f.Epoch
		w.v.advance(&next, w.m, f)
	}
	h.state, h.objects = next, h.objects+1
	if w.v.forget {
		return nil
	}
	for _, raw := range frames {
		f, _ := frame.ParseHeader(raw)
		if f.Kind == frame.KindBase {
			h.base[f.Epoch] = append(h.base[f.Epoch], bytes.Clone(raw))
		} else {
			h.log = append(h.log, bytes.Clone(raw))
		}
	}
	return nil
}

// advance moves a state over one frame and panics where the relay broke an order that
// it promises: then no test may go on.
func (v *Vault) advance(st *relay.State, m block.MachineID, f *frame.Frame) {
	broken := func(why string) {
		panic(fmt.Sprintf("machine %s: %s frame %d..%d of epoch %d behind %s and bases %v: %s", m, f.Kind, f.First, f.Last, f.Epoch, st.Last, st.Base, why))
	}
	if f.Machine != m {
		broken("another machine's")
	}
	if f.Kind == frame.KindBase {
		if f.Epoch > st.Last.Epoch {
			broken("its epoch has not begun")
		}
		if uint64(f.First) != st.Base[f.Epoch]+1 {
			broken("not the next base frame")
		}
		st.Base[f.Epoch] = uint64(f.Last)
		return
	}
	if st.Last.Seq != 0 && f.First != st.Last.Seq+1 {
		broken("not the next log frame")
	}
	if f.Kind == frame.KindMark {
		mark, err := f.Mark()
		if err != nil {
			broken(err.Error())
		}
		if mark.Type == frame.MarkBaseComplete && st.Base[f.Epoch] != mark.BaseFrames && !v.baseless {
			broken("its base is not complete")
		}
	}
	st.Last, st.Closed = f.Position(), f.Closed
}
