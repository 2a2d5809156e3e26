package sim

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/capture/capturetest"
	"github.com/understudy-dr/understudy/agent/journal"
	"github.com/understudy-dr/understudy/agent/pipeline"
	"github.com/understudy-dr/understudy/agent/resync"
	"github.com/understudy-dr/understudy/agent/ship"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/wire"
	"github.com/understudy-dr/understudy/pkg/wire/wiretest"
)

// machineID is the protected machine's.
var machineID = block.MachineID{1}

// Sizes small enough that everything overflows now and then.
const (
	frameBytes  = 12 << 10
	pollEvery   = 20 * time.Millisecond
	rewishEvery = 4 * time.Second
)

// machine is the protected machine: its kernel, its file systems, and the agent that
// runs on it or does not.
type machine struct {
	w         *world
	kernel    *capturetest.Kernel
	ram, disk *media
	intact    bool // the kernel has run since the last agent

	agent *agent // nil while none runs
}

// agent is one run of the agent's process: what the agent's service joins.
type agent struct {
	m        *machine
	p        *process
	journal  *journal.Journal
	client   *ship.Client
	pipeline *pipeline.Pipeline
	cancel   context.CancelFunc
	work     sync.WaitGroup
	wishes   chan struct{}

	mu   sync.Mutex
	link *wiretest.Link
}

// start runs an agent on what the last one left.
func (m *machine) start() error {
	a := &agent{m: m, wishes: make(chan struct{}, 1)}
	a.p = newProcess(func() { m.ram = m.ram.clone() })
	files := journalFiles{process: a.p, ram: m.ram, disk: m.disk, mapped: m.w.schedule.Memory}
	o := journal.Options{MemoryDir: ramDir, MemoryBytes: m.w.schedule.Memory, Files: files, Log: m.w.log}
	if m.w.schedule.Spill {
		o.SpillPath, o.SpillBytes = spillPath, o.MemoryBytes
	}
	j, recovered, err := journal.Open(o)
	if err != nil {
		a.p.kill(0, false)
		return err
	}
	for _, d := range recovered.Damage {
		m.w.note("journal: %s", d)
		m.w.count("journal damaged")
	}
	state, err := pipeline.Recall(recovered)
	if err != nil {
		a.p.kill(0, false)
		return err
	}
	a.journal = j
	a.client = ship.New(ship.Config{
		Machine: machineID, Frames: m.w.mutant.frames(frames{a}), Dial: a.dial, Log: m.w.log,
		Backoff:   ship.Backoff{Min: 100 * time.Millisecond, Max: 2 * time.Second},
		Newest:    func() block.Position { return a.pipeline.Position() },
		OnWelcome: a.welcome, OnLogAck: a.acked,
		OnBaseAck: func(ctx context.Context, e block.Epoch, n uint64) { a.pipeline.BaseAcked(ctx, e, n) },
	})
	a.pipeline = pipeline.New(pipeline.Config{
		Machine: machineID, Log: m.w.log, Journal: j, Relay: m.w.mutant.relay(a.client),
		Source: m.w.mutant.source(source{m.kernel.Source(), a.p}),
		State:  state, Recovered: recovered, Resume: capture.Resume{Intact: m.intact},
		Events: m.w.agentEvent, Open: a.open, Now: m.kernel.Now, Poll: pollEvery, Frame: frameBytes,
	})
	m.intact = true
	m.agent = a
	a.run()
	return nil
}

// frames is the journal as the shipper reads it.
type frames struct{ *agent }

func (f frames) Next(ctx context.Context, after block.Seq) ([]byte, error) {
	raw, err := f.journal.Next(ctx, after)
	if errors.Is(err, journal.ErrDamaged) || errors.Is(err, journal.ErrGap) {
		f.pipeline.Damaged(ctx, err)
	}
	return raw, err
}

func (a *agent) run() {
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	a.work.Go(func() {
		if err := a.pipeline.Run(ctx); err != nil && a.p.alive() == nil {
			a.m.w.fail("the agent's pipeline ended: %v", err)
		}
	})
	a.work.Go(func() { _ = a.client.Run(ctx) })
	a.work.Go(func() {
		for ctx.Err() == nil {
			a.pipeline.Wish(ctx, a.m.w.wanted(), a.m.kernel.Found())
			select {
			case <-a.wishes:
			case <-time.After(rewishEvery):
			case <-ctx.Done():
			}
		}
	})
}

// rewish has the agent look at what is wanted, and at its disks.
func (a *agent) rewish() {
	if a == nil {
		return
	}
	select {
	case a.wishes <- struct{}{}:
	default:
	}
}

// stop ends the process: in good order if it is not dead.
func (m *machine) stop() {
	a := m.agent
	if a == nil {
		return
	}
	a.cut()
	a.cancel()
	a.work.Wait()
	_ = a.journal.Close()
	a.p.kill(0, false)
	m.agent = nil
}

// dial connects to the relay whose turn it is.
func (a *agent) dial(context.Context) (wire.Link, error) {
	n := a.m.w.turn()
	if n == nil || a.p.alive() != nil {
		return nil, net.ErrClosed
	}
	l := n.Dial(wire.Peer{Role: wire.RoleAgent, Machine: machineID, Serial: "1", NotAfter: time.Now().AddDate(1, 0, 0), Remote: "agent", Transport: wire.TCP})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.link = l
	return l, nil
}

// cut breaks the connection.
func (a *agent) cut() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.link != nil {
		_ = a.link.Close()
	}
}

func (a *agent) welcome(ctx context.Context, w wire.Welcome) (block.Seq, error) {
	a.m.w.welcomed(w)
	return a.pipeline.Welcome(ctx, w)
}

func (a *agent) acked(ctx context.Context, spooled, committed block.Seq) {
	a.m.w.acked(spooled, committed)
	a.pipeline.Acked(ctx, spooled, committed)
}

// open opens a disk for a copy to read.
func (a *agent) open(t resync.Target) (resync.Device, error) {
	if _, err := a.m.kernel.Size(t.ID); err != nil {
		return nil, err
	}
	return device{a.m.kernel, t.ID}, nil
}

// device reads one of the kernel's disks.
type device struct {
	k  *capturetest.Kernel
	id block.DiskID
}

func (d device) ReadAt(p []byte, off int64) (int, error) { return d.k.ReadAt(d.id, p, off) }
func (d device) Close() error                            { return nil }
func (d device) Size() (int64, error)                    { return d.k.Size(d.id) }
func (d device) Sync(context.Context) error              { return nil }
func (d device) Layout() (string, error)                 { return "whole", nil }
func (d device) Activity() (resync.Activity, error)      { return resync.Activity{}, nil }
func (d device) Usage(context.Context) (resync.Usage, error) {
	return resync.Usage{Layout: "whole"}, nil
}

// agentEvent counts what the agent tells.
func (w *world) agentEvent(e desired.Event) {
	w.count("agent: " + e.Type)
	w.note("agent: %s: %s", e.Type, e.Message)
}

// source is a process's hold on the kernel: what it changes there, it may die at.
type source struct {
	capture.Source
	p *process
}

func (s source) Track(ctx context.Context, d capture.Disk) error {
	return s.p.effect(func() error { return s.Source.Track(ctx, d) })
}

func (s source) Untrack(id block.DiskID) error {
	return s.p.effect(func() error { return s.Source.Untrack(id) })
}

func (s source) Arm(ctx context.Context) (armed capture.Armed, err error) {
	err = s.p.effect(func() error { armed, err = s.Source.Arm(ctx); return err })
	return armed, err
}

func (s source) Disarm() error { return s.p.effect(s.Source.Disarm) }

func (s source) Poll(fn func(capture.Record) bool) (int, bool, error) {
	if err := s.p.alive(); err != nil {
		return 0, false, err
	}
	return s.Source.Poll(fn)
}

func (s source) Advance(pos uint64) error {
	return s.p.effect(func() error { return s.Source.Advance(pos) })
}

func (s source) Health() (capture.Health, error) {
	h, err := s.Source.Health()
	return h, errors.Join(err, s.p.alive())
}

func (s source) SwapDirty(ctx context.Context) (pos uint64, err error) {
	err = s.p.effect(func() error { pos, err = s.Source.SwapDirty(ctx); return err })
	return pos, err
}

func (s source) MarkDirty(id block.DiskID, doubt *block.Set) error {
	return s.p.effect(func() error { return s.Source.MarkDirty(id, doubt) })
}

func (s source) ForgetDirty() error { return s.p.effect(s.Source.ForgetDirty) }
