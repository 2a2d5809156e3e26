package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/consistency"
	"github.com/understudy-dr/understudy/agent/enrol"
	"github.com/understudy-dr/understudy/agent/journal"
	"github.com/understudy-dr/understudy/agent/pipeline"
	"github.com/understudy-dr/understudy/agent/ship"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/obs"
	"github.com/understudy-dr/understudy/pkg/ready"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// service is a running agent: the pipeline, and around it the conversation with the
// control plane.
type service struct {
	opt     runOptions
	log     *slog.Logger
	id      *enrol.Identity
	client  *enrol.Client
	started time.Time

	source   capture.Source
	journal  *journal.Journal
	shipper  *ship.Client
	pipeline *pipeline.Pipeline
	quiescer *consistency.Quiescer

	state  atomic.Pointer[desired.State] // what the control plane wants, as last heard
	dialed atomic.Uint64                 // relay connections tried, to take turns

	leftOut atomic.Pointer[string] // paths of the disks that discover left out last
	news    news
}

// runService protects this machine until ctx ends.
func runService(ctx context.Context, o runOptions, log *slog.Logger) error {
	s := &service{opt: o, log: log, started: time.Now(), news: newNews(), quiescer: newQuiescer(o)}
	s.thaw() // before anything is written
	if failover := thisSystem.replicaOf(); failover != "" {
		return keepSilent(ctx, failover, log)
	}
	id, err := enrol.Load(o.dir, time.Now)
	if err != nil {
		return err
	}
	s.id, s.client = id, enrol.NewClient(id, log)
	s.state.Store(&desired.State{Machine: id.Machine})
	if last, err := s.remembered(); err != nil {
		log.Warn("cannot read what was wanted last", "err", err)
	} else if last != nil {
		s.state.Store(last)
	}
	if err := s.open(); err != nil {
		return err
	}
	defer s.close()
	if err := ready.Tell(ctx); err != nil {
		log.Warn("the service manager was not told", "err", err)
	}
	return s.run(ctx)
}

// open takes up what the last run left in the kernel and in the journal.
func (s *service) open() error {
	source, resume, scans, err := openCapture(s.opt, s.log)
	if err != nil {
		return err
	}
	j, recovered, err := journal.Open(journal.Options{
		MemoryDir: s.opt.memoryDir, MemoryBytes: s.opt.memoryBytes,
		SpillPath: s.opt.spill, SpillBytes: s.opt.spillBytes, Log: s.log,
	})
	if err != nil {
		return errors.Join(err, source.Close())
	}
	s.source, s.journal = source, j
	state, err := pipeline.Recall(recovered)
	if err != nil {
		s.log.Warn("the last run's state is lost", "err", err)
	}
	if state.Machine != s.id.Machine { // enrolled anew: what is there belongs to another log
		state = pipeline.State{}
		j.Reset(0, time.Time{})
		recovered = journal.Recovered{SameBoot: recovered.SameBoot}
	}
	s.shipper = ship.New(ship.Config{
		Machine: s.id.Machine, Build: obs.BuildVersion(), Frames: frames{s}, Log: s.log,
		Dial:      func(ctx context.Context) (wire.Link, error) { return s.dial(ctx) },
		Newest:    func() block.Position { return s.pipeline.Position() },
		OnWelcome: func(ctx context.Context, w wire.Welcome) (block.Seq, error) { return s.pipeline.Welcome(ctx, w) },
		OnLogAck:  func(ctx context.Context, spooled, committed block.Seq) { s.pipeline.Acked(ctx, spooled, committed) },
		OnBaseAck: func(ctx context.Context, epoch block.Epoch, n uint64) { s.pipeline.BaseAcked(ctx, epoch, n) },
	})
	s.pipeline = pipeline.New(pipeline.Config{
		Machine: s.id.Machine, Log: s.log, Source: source, Journal: j, Relay: s.shipper,
		State: state, Recovered: recovered, Resume: resume, Scan: scans, Events: s.news.add,
		Quiesce: s.quiescer, Hush: s.opt.hush, Late: []string{s.opt.dir, s.opt.spill}, PowerOff: s.powerOff,
	})
	return nil
}

// frames is the journal as the shipper reads it. What it cannot give any more becomes
// a doubt.
type frames struct{ s *service }

func (f frames) Next(ctx context.Context, after block.Seq) ([]byte, error) {
	raw, err := f.s.journal.Next(ctx, after)
	if errors.Is(err, journal.ErrDamaged) || errors.Is(err, journal.ErrGap) {
		f.s.pipeline.Damaged(ctx, err)
	}
	return raw, err
}

// close leaves the capture in the kernel, and the journal's files.
func (s *service) close() {
	if err := s.shut(); err != nil {
		s.log.Error("closing", "err", err)
	}
}

func (s *service) shut() error { return errors.Join(s.journal.Close(), s.source.Close()) }

func (s *service) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { prioritise(); return s.pipeline.Run(ctx) })
	g.Go(func() error { return ended(ctx, s.shipper.Run(ctx)) })
	g.Go(func() error { s.client.KeepFresh(ctx); return nil })
	g.Go(func() error { return ended(ctx, s.follow(ctx)) })
	g.Go(func() error { return ended(ctx, s.reportAll(ctx)) })
	if s.opt.metrics != "" {
		g.Go(func() error { return serveMetrics(ctx, s.opt.metrics, s) })
	}
	return g.Wait()
}

// ended is no error for what ends because everything ends.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// dial connects to the relays that the control plane names, in turns.
func (s *service) dial(ctx context.Context) (wire.Link, error) {
	relays := s.opt.relays
	if len(relays) == 0 {
		relays = s.state.Load().Relays
	}
	if len(relays) == 0 {
		return nil, errors.New("no relay is known yet: the control plane has not said what it wants")
	}
	addr := relays[int(s.dialed.Add(1)-1)%len(relays)]
	if host, port, err := net.SplitHostPort(addr); err == nil && host == "" {
		u, err := url.Parse(s.id.Server)
		if err != nil {
			return nil, fmt.Errorf("the control plane's address: %w", err)
		}
		addr = net.JoinHostPort(u.Hostname(), port)
	}
	return wire.Dial(ctx, addr, wire.AgentTLS(s.id.Certificate, s.id.Roots()), s.opt.transport)
}

const (
	// retryControl is how soon the control plane is asked again after it did not
	// answer: protection goes on meanwhile, so there is no hurry.
	retryControl = 5 * time.Second
	// rewish is how often a wish that did not change is tried again: disks come back.
	rewish = 15 * time.Second
)

// follow keeps the pipeline at what the control plane wants. What was heard last is
// kept on disk: after a boot protection begins without asking anybody.
func (s *service) follow(ctx context.Context) error {
	if last := s.state.Load(); last.Generation > 0 {
		s.wish(ctx, *last)
	}
	fresh := make(chan desired.State)
	go s.listen(ctx, fresh)
	for {
		select {
		case <-ctx.Done():
			return nil
		case w := <-fresh:
			if err := s.remember(w); err != nil {
				s.log.Warn("cannot keep what is wanted", "err", err)
			}
			s.wish(ctx, w)
		case <-time.After(rewish):
			if w := s.state.Load(); w.Generation > 0 {
				s.wish(ctx, *w)
			}
		}
	}
}

// listen passes on every state that the control plane wants.
func (s *service) listen(ctx context.Context, fresh chan<- desired.State) {
	var heard uint64
	for ctx.Err() == nil {
		w, err := s.client.Desired(ctx, heard)
		if err != nil {
			if ctx.Err() == nil {
				s.log.Warn("control plane", "err", err)
			}
			pause(ctx, retryControl)
			continue
		}
		if w.Generation == heard {
			continue
		}
		heard = w.Generation
		select {
		case fresh <- w:
		case <-ctx.Done():
		}
	}
}

func (s *service) wish(ctx context.Context, w desired.State) {
	s.state.Store(&w)
	s.shipper.SetThrottle(ship.Throttle{BytesPerSec: w.Policy.ThrottleAt(time.Now())})
	found, err := s.discover(ctx)
	if err != nil {
		s.log.Warn("looking for disks", "err", err)
		return
	}
	s.pipeline.Wish(ctx, w, found)
	s.news.poke()
}

func (s *service) wantedFile() string { return filepath.Join(s.opt.dir, "desired.json") }

func (s *service) remembered() (*desired.State, error) {
	b, err := os.ReadFile(s.wantedFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var w desired.State
	if err := json.Unmarshal(b, &w); err != nil {
		return nil, fmt.Errorf("%s: %w", s.wantedFile(), err)
	}
	if w.Machine != s.id.Machine {
		return nil, nil
	}
	return &w, nil
}

func (s *service) remember(w desired.State) error {
	w.Point = desired.PointWish{} // of now, not of after a boot
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	temp := s.wantedFile() + ".new"
	if err := os.WriteFile(temp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, s.wantedFile())
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
