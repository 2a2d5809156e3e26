package main

import (
	"context"

	kardianos "github.com/kardianos/service"
)

// managed runs the agent, and where Windows started it as a service, says so and stops it
// when Windows asks.
func managed(ctx context.Context, run func(context.Context) error) error {
	if kardianos.Interactive() {
		return run(ctx)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p := &running{run: func() error { return run(ctx) }, stop: stop, ended: make(chan error, 1)}
	s, err := manager(p)
	if err != nil {
		return err
	}
	return s.Run()
}

// running is the agent as Windows starts and stops it.
type running struct {
	run   func() error
	stop  context.CancelFunc
	ended chan error
}

func (p *running) Start(s kardianos.Service) error {
	go func() {
		err := p.run()
		p.ended <- err
		if err != nil {
			_ = s.Stop() // Windows starts it again, as its recovery settings say
		}
	}()
	return nil
}

func (p *running) Stop(kardianos.Service) error {
	p.stop()
	return <-p.ended
}
