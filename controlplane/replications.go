package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/relay"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/block"
)

// replications joins what the relay and the vault know of machines: api.Relay.
type replications struct {
	relay *relay.Server
	vault *vault.Vault
	log   *slog.Logger

	mu    sync.Mutex
	known map[block.MachineID]*summary
}

// summary is what the vault said of a machine. It is good until the relay commits
// more, or for a while: summing up a machine takes a walk over its points.
type summary struct {
	status vault.Status
	at     time.Time
	log    block.Position
	base   uint64
	fresh  chan struct{} // closed when the summary being made is there; nil if none is
}

const (
	summaryFor  = 10 * time.Second
	summaryWait = 200 * time.Millisecond // for a fresh one; then the last one has to do
	summaryTime = time.Minute            // for making one
)

func newReplications(r *relay.Server, v *vault.Vault, log *slog.Logger) *replications {
	return &replications{relay: r, vault: v, log: log, known: make(map[block.MachineID]*summary)}
}

// Replication implements api.Relay.
func (r *replications) Replication(id block.MachineID) inventory.Replication {
	live, _ := r.relay.Status(id)
	stored := r.stored(id, live)
	out := inventory.Replication{
		Known: true, Connected: live.Connected, Transport: string(live.Transport),
		Spooled: live.Spooled.Position, SpooledClose: live.Spooled.Closed,
		Committed: stored.Last, CommittedClose: stored.Closed,
		BytesPerSecond: int64(live.BytesPerSec), SpoolBytes: live.SpoolBytes,
		NoPoint: stored.Pending,
	}
	if stored.Newest != nil {
		out.PointEpoch, out.PointTime, out.NoPoint = stored.Newest.Position.Epoch, stored.Newest.Time, ""
	}
	return out
}

// Disconnect implements api.Relay.
func (r *replications) Disconnect(id block.MachineID, why, remedy string) {
	r.relay.Disconnect(id, why, remedy)
}

// stored is what the vault knows of the machine. A vault that does not answer delays
// nobody: then it is what was known before, and its age shows as RPO.
func (r *replications) stored(id block.MachineID, live relay.Status) vault.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.known[id]
	if s == nil {
		s = &summary{}
		r.known[id] = s
	}
	if time.Since(s.at) < summaryFor && s.log == live.Committed.Position && s.base == live.BaseCommitted.N {
		return s.status
	}
	if s.fresh == nil {
		s.fresh = make(chan struct{})
		go r.sumUp(id, live, s)
	}
	fresh := s.fresh
	r.mu.Unlock()
	select {
	case <-fresh:
	case <-time.After(summaryWait):
	}
	r.mu.Lock()
	return s.status
}

// sumUp asks the vault and fills in the summary.
func (r *replications) sumUp(id block.MachineID, live relay.Status, s *summary) {
	ctx, cancel := context.WithTimeout(context.Background(), summaryTime)
	defer cancel()
	status, err := r.ask(ctx, id)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		s.status = status
	} else {
		r.log.Warn("cannot read a machine's history", "machine", id, "err", err)
	}
	s.at, s.log, s.base = time.Now(), live.Committed.Position, live.BaseCommitted.N
	close(s.fresh)
	s.fresh = nil
}

func (r *replications) ask(ctx context.Context, id block.MachineID) (vault.Status, error) {
	m, err := r.vault.Machine(ctx, id)
	if errors.Is(err, vault.ErrNoMachine) {
		return vault.Status{}, nil
	}
	if err != nil {
		return vault.Status{}, err
	}
	return m.Status(ctx)
}
