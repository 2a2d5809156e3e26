package main

import (
	"context"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
)

// news collects events until they are reported, and wakes the reporter.
type news struct {
	mu     *sync.Mutex
	events *[]desired.Event
	wake   chan struct{}
}

// maxNews bounds the events kept while the control plane cannot be reached; the
// oldest go first.
const maxNews = 200

func newNews() news {
	return news{mu: new(sync.Mutex), events: new([]desired.Event), wake: make(chan struct{}, 1)}
}

func (n news) add(e desired.Event) {
	n.mu.Lock()
	*n.events = append(*n.events, e)
	if over := len(*n.events) - maxNews; over > 0 {
		*n.events = (*n.events)[over:]
	}
	n.mu.Unlock()
	n.poke()
}

func (n news) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// take is everything not reported yet; giveBack returns it after a failed report.
func (n news) take() []desired.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	events := *n.events
	*n.events = nil
	return events
}

func (n news) giveBack(events []desired.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	*n.events = append(events, *n.events...)
}

// settle is how long a report waits after something happened: what follows at once
// goes with it.
const settle = 200 * time.Millisecond

// reportAll tells the control plane how this machine is, regularly and after changes.
func (s *service) reportAll(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := s.reportOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("report", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(s.reportEvery()):
		case <-s.news.wake:
			pause(ctx, settle)
		}
	}
	return nil
}

func (s *service) reportEvery() time.Duration {
	if n := s.state.Load().ReportSeconds; n > 0 {
		return time.Duration(n) * time.Second
	}
	return desired.ReportEvery
}

func (s *service) reportOnce(ctx context.Context) error {
	events := s.news.take()
	_, err := s.client.Report(ctx, desired.Report{
		Time: time.Now(), Instance: string(s.shipper.Instance()), Started: s.started, Host: host(),
		Generation: s.state.Load().Generation, Disks: s.found(ctx), Protection: s.protection(),
		Probe: probed(), Events: events,
	})
	if err != nil {
		s.news.giveBack(events)
	}
	return err
}

// protection is the pipeline's status with the ring's.
func (s *service) protection() *desired.Protection {
	p := s.pipeline.Status()
	if p == nil {
		return nil
	}
	shown := *p
	if h, err := s.source.Health(); err == nil {
		shown.Ring = desired.Gauge{Used: int64(h.RingUsed), Size: int64(h.RingBytes)}
	}
	return &shown
}

// found are the disks that could be protected.
func (s *service) found(ctx context.Context) []desired.Disk {
	disks, err := s.discover(ctx)
	if err != nil {
		s.log.Warn("looking for disks", "err", err)
	}
	out := make([]desired.Disk, 0, len(disks))
	for _, d := range disks {
		out = append(out, desired.Disk{ID: d.ID, Name: d.Name, Path: d.Path, Size: d.Size, SectorSize: d.SectorSize, Driver: thisSystem.diskDriver(d.Path)})
	}
	return out
}
