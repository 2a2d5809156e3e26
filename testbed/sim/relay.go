package sim

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/controlplane/ingest"
	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/relay"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
	"github.com/understudy-dr/understudy/pkg/wire/wiretest"
)

// rpo is the policy's target: a third of it closes an object.
const rpo = 1500 * time.Millisecond

// server is a relay's machine: its spool disk, and the process that runs or does not.
type server struct {
	w     *world
	name  string
	spool *media
	fresh bool // it never ran

	p     *process // nil while none runs
	net   atomic.Pointer[wiretest.Net]
	relay *relay.Server
	// acked is the highest position that it acknowledged as spooled and may not take back.
	acked block.Seq
}

func newServer(w *world, name string) *server {
	return &server{w: w, name: name, spool: newMedia(), fresh: true}
}

func (s *server) up() bool { return s.net.Load() != nil }

// start runs a relay on what the last one left.
func (s *server) start() error {
	s.p = newProcess(func() {})
	s.fresh = false
	net := wiretest.NewNet(s.w.tamper)
	way := client{cloud: s.w.cloud, p: s.p}
	if s.w.mutant.Blind {
		way.blind = map[string]bool{}
	}
	v, err := vault.Open(context.Background(), s.w.retrying(way), vaultOptions("relay "+s.name))
	if err == nil {
		s.relay, err = relay.Open(context.Background(), relay.Config{
			Listener: net, Vault: &counter{Vault: ingest.Vault{Vault: v}, w: s.w, inside: make(chan struct{}, 1)}, SpoolDir: spoolDir,
			SpoolFiles: spoolFiles{process: s.p, m: s.spool, lie: s.w.mutant.Lie},
			PerMachine: 96 << 10, Window: 48 << 10, SpoolLimit: 160 << 20, Object: 64 << 10, Workers: 2,
			Authorize: func(context.Context, block.MachineID, string) (relay.Policy, error) {
				return relay.Policy{RPOTarget: rpo}, nil
			},
			Event: func(e relay.Event) { s.w.relayEvent(s, e) }, Log: s.w.log,
		})
	}
	if err != nil {
		s.p, s.relay = nil, nil
		return err
	}
	s.net.Store(net)
	return nil
}

// stop ends the process, in good order if it is not dead.
func (s *server) stop() {
	if s.p == nil {
		return
	}
	s.net.Store(nil)
	dead := s.p.alive() != nil
	if err := s.relay.Close(); err != nil && !dead && !errors.Is(err, errDead) {
		s.w.fail("relay %s does not stop in good order: %v", s.name, err)
	}
	s.p.kill(0, false)
	s.p, s.relay = nil, nil
}

func vaultOptions(owner string) vault.Options {
	return vault.Options{Key: vault.Key{1}, Owner: owner, IndexCache: 1 << 20, PayloadCache: 1 << 20}
}

// retrying is how the control plane uses a store.
func (w *world) retrying(s objstore.Store) objstore.Store {
	return objstore.Retry(s, objstore.RetryPolicy{Attempts: 2, First: 50 * time.Millisecond, Max: 100 * time.Millisecond})
}

// counter counts what a relay asks of the vault. One call is inside at a time: the vault's
// locks are held over its calls to the store, and in a bubble of fake time a goroutine
// that waits for a lock keeps the clock from going on.
type counter struct {
	ingest.Vault
	w      *world
	inside chan struct{}
}

func (v *counter) enter(ctx context.Context) (leave func(), err error) {
	select {
	case v.inside <- struct{}{}:
		return func() { <-v.inside }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (v *counter) OpenWriter(ctx context.Context, id block.MachineID) (relay.Writer, error) {
	leave, err := v.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	w, err := v.Vault.OpenWriter(ctx, id)
	if err != nil {
		return nil, err
	}
	v.w.count("lease taken")
	return teller{w, v}, nil
}

func (v *counter) RangeHashes(ctx context.Context, id block.MachineID, at block.Position, disk block.DiskID, off, n, granule int64) ([]block.Hash16, error) {
	leave, err := v.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return v.Vault.RangeHashes(ctx, id, at, disk, off, n, granule)
}

// teller is a machine's writer that is counted.
type teller struct {
	relay.Writer
	v *counter
}

func (t teller) Commit(ctx context.Context, frames [][]byte) error {
	leave, err := t.v.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := t.Writer.Commit(ctx, frames); err != nil {
		t.v.w.count("commit failed")
		return err
	}
	t.v.w.committed(frames)
	return nil
}

// relayEvent counts what a relay tells.
func (w *world) relayEvent(s *server, e relay.Event) {
	w.count("relay: " + string(e.Type))
	switch e.Type {
	case relay.EventSpoolDamaged:
		w.damaged.Store(true)
	case relay.EventConnected, relay.EventDisconnected:
	default:
		w.note("relay %s: %s: %s", s.name, e.Type, e.Message)
	}
}

// tamper loses and repeats acknowledgements, and is slow at times.
func (w *world) tamper(toAgent bool) wiretest.Tamper {
	var older []byte
	return func(m []byte) ([][]byte, time.Duration) {
		late := w.late()
		if !toAgent || len(m) == 0 || wire.Type(m[0]) != wire.TypeAck {
			return [][]byte{m}, late
		}
		lose, repeat := w.ackFate()
		before := older
		older = m
		switch {
		case lose:
			w.count("ack lost")
			return nil, late
		case repeat && before != nil:
			w.count("ack repeated")
			return [][]byte{m, before, m}, late
		}
		return [][]byte{m}, late
	}
}

// committed keeps the base frames for the mutant that ranks them above the log.
func (w *world) committed(frames [][]byte) {
	if !w.mutant.Above {
		return
	}
	for _, raw := range frames {
		if h, err := frame.ParseHeader(raw); err == nil && h.Kind == frame.KindBase {
			w.base[h.Epoch] = append(w.base[h.Epoch], append([]byte(nil), raw...))
		}
	}
}
