// Package relay takes frames from agents on port 9443, makes them durable in its
// spool, acknowledges them, gathers them into objects and hands those to the vault.
//
// # Who may do what
//
// A machine is who its certificate says. It may append the next frame of its own log
// and of its own bases and ask for range hashes of its own disks. Nothing that is
// stored can be read, altered or deleted from this port.
//
// # What holds
//
// A frame is acknowledged as spooled after an fdatasync that covers it, and as
// committed after the vault's Commit returned. The spool keeps it in between. Frames
// of a machine's log are committed in order, and a base-complete mark only behind the
// base frames it counts.
//
// # Slowness
//
// One machine never waits for another's vault writer: commits run in a bounded number
// of workers, one per machine at a time, and a machine that failed waits outside of
// them. What the spool cannot take is held back by credit at the agents; they lose
// nothing and are not cut off.
package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-dr/understudy/controlplane/relay/spool"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// Defaults.
const (
	DefaultRPOTarget  = 15 * time.Second
	DefaultObject     = 8 << 20  // bytes
	DefaultWorkers    = 8        // commits at once
	DefaultSpool      = 16 << 30 // bytes
	DefaultWindow     = 32 << 20 // bytes in flight on one channel
	DefaultPerMachine = 2 << 30  // bytes of one machine's log in the spool, and of its bases
	DefaultMachines   = 4096     // connected at once
	maxBacklogObject  = 32 << 20 // bytes: an object of a machine that is behind
	commitTimeout     = 2 * time.Minute
	writerIdle        = 2 * time.Minute // a disconnected machine's lease is given back after
)

// Policy is what the relay tells an agent, and keeps to itself, of its policy.
type Policy struct {
	RPOTarget time.Duration
	Throttle  int64 // bytes a second, 0 for unlimited
}

// Config shapes a relay. Zero sizes mean the defaults.
type Config struct {
	Addr  string // host:port, for tcp and udp
	TLS   *tls.Config
	Vault Vault
	// Authorize says whether the machine may connect with the certificate of this
	// serial number (hexadecimal), and its policy. Nil lets every valid certificate in.
	Authorize func(ctx context.Context, machine block.MachineID, serial string) (Policy, error)
	// Event is told what an operator may want to know. It must not block.
	Event func(Event)

	// Listener replaces the one on Addr, for a simulation.
	Listener Listener

	SpoolDir   string
	SpoolFiles spool.Files // nil for the operating system's
	SpoolLimit int64       // bytes on disk
	Segment    int64       // bytes of one spool file
	PerMachine int64       // bytes of one machine's log, and as many of its bases
	Window     int64       // bytes in flight on one channel
	Object     int64       // bytes at which an object is closed
	Workers    int
	Machines   int // connected at once

	Build      string
	Registerer prometheus.Registerer // nil for none
	Log        *slog.Logger
}

func (c *Config) fill() {
	set := func(v *int64, def int64) {
		if *v == 0 {
			*v = def
		}
	}
	set(&c.SpoolLimit, DefaultSpool)
	set(&c.Segment, max(spool.MinSegment, min(spool.DefaultSegment, c.SpoolLimit/8)))
	set(&c.PerMachine, min(DefaultPerMachine, c.SpoolLimit/2))
	set(&c.Window, DefaultWindow)
	set(&c.Object, DefaultObject)
	if c.Workers == 0 {
		c.Workers = DefaultWorkers
	}
	if c.Machines == 0 {
		c.Machines = DefaultMachines
	}
	if c.Event == nil {
		c.Event = func(Event) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// Listener gives the channels whose peers have proved who they are.
type Listener interface {
	Accept(ctx context.Context) (wire.Stream, error)
	Addr() net.Addr
	Close() error
}

// Server is a relay.
type Server struct {
	conf     Config
	spool    *spool.Spool
	listener Listener
	metrics  *metrics
	spares   spares
	hashing  chan struct{}

	mu       sync.Mutex
	machines map[block.MachineID]*machine
	sessions int
	channels map[*channel]struct{} // those that send frames
	starved  map[*channel]struct{} // of them, those without credit
	failing  map[block.MachineID]EventType
	told     map[news]time.Time

	ready  readyQueue
	ctx    context.Context // ends with Close; of no one request
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Open recovers the spool, binds the address and begins to serve and to commit.
func Open(ctx context.Context, conf Config) (*Server, error) {
	conf.fill()
	s := &Server{
		conf: conf, machines: make(map[block.MachineID]*machine),
		channels: make(map[*channel]struct{}), starved: make(map[*channel]struct{}),
		failing: make(map[block.MachineID]EventType), told: make(map[news]time.Time),
		hashing: make(chan struct{}, hashesAtOnce),
	}
	s.ready.init()
	s.metrics = newMetrics(s)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.openSpool(); err != nil {
		return nil, err
	}
	if err := s.listen(ctx); err != nil {
		_ = s.spool.Close()
		return nil, err
	}
	if conf.Registerer != nil {
		if err := conf.Registerer.Register(s.metrics); err != nil {
			_ = s.Close()
			return nil, fmt.Errorf("relay: registering metrics: %w", err)
		}
	}
	for range conf.Workers {
		s.wg.Go(s.commitWorker)
	}
	s.wg.Go(s.accept)
	return s, nil
}

func (s *Server) listen(ctx context.Context) error {
	if s.listener = s.conf.Listener; s.listener != nil {
		return nil
	}
	l, err := wire.Listen(ctx, s.conf.Addr, s.conf.TLS, s.handshakeRefused)
	if err != nil {
		return err
	}
	s.listener = l
	return nil
}

func (s *Server) openSpool() error {
	sp, rec, err := spool.Open(s.conf.SpoolDir, spool.Options{
		Segment: s.conf.Segment, Limit: s.conf.SpoolLimit, Positions: s.positions, Files: s.conf.SpoolFiles,
		Recycle: s.spares.give, Synced: s.metrics.synced, Trouble: s.spoolTrouble, Log: s.conf.Log,
	})
	if err != nil {
		return err
	}
	s.spool = sp
	if len(rec.Damaged) > 0 {
		s.event(Event{Type: EventSpoolDamaged, Message: fmt.Sprintf("the spool in %s lost acknowledged frames: %v", s.conf.SpoolDir, rec.Damaged),
			Remedy: "check the spool's disk; the machines concerned resync by themselves with the reason relay-lost-spool"})
	}
	if rec.Torn {
		s.conf.Log.Info("an unfinished write was cut off the spool", "dir", s.conf.SpoolDir)
	}
	now := time.Now()
	for _, r := range rec.Machines {
		m := newMachine(r.Machine)
		m.restore(r, now)
		s.machines[m.id] = m
		s.plan(m)
	}
	return nil
}

// Addr is the address bound.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close stops in good order: agents are told, what is in the spool stays there.
func (s *Server) Close() error {
	s.closeSessions(wire.Refuse(wire.CodeShuttingDown, "none: the agent comes back by itself", "the relay is stopping"))
	s.cancel()
	s.ready.close()
	var err error
	if s.listener != nil {
		err = s.listener.Close()
	}
	s.wg.Wait()
	for _, m := range s.all() {
		m.mu.Lock()
		if m.timer != nil {
			m.timer.Stop()
		}
		m.mu.Unlock()
		m.closeWriter()
	}
	if s.conf.Registerer != nil {
		s.conf.Registerer.Unregister(s.metrics)
	}
	return errors.Join(err, s.spool.Close())
}

func (s *Server) accept() {
	for {
		stream, err := s.listener.Accept(s.ctx)
		if err != nil {
			return
		}
		s.wg.Go(func() { s.serve(stream) })
	}
}

// machine is the machine with this id, made if it is new.
func (s *Server) machine(id block.MachineID) *machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.machines[id]
	if m == nil {
		m = newMachine(id)
		s.machines[id] = m
	}
	return m
}

func (s *Server) all() []*machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*machine, 0, len(s.machines))
	for _, m := range s.machines {
		all = append(all, m)
	}
	return all
}

// positions are the rows of a new segment's head.
func (s *Server) positions() []spool.Positions {
	var rows []spool.Positions
	for _, m := range s.all() {
		if p := m.positions(); p.Spooled.Seq > 0 || p.BaseSpooled.N > 0 {
			rows = append(rows, p)
		}
	}
	return rows
}
