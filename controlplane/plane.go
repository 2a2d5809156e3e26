package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/controlplane/api"
	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/pki"
	"github.com/understudy-dr/understudy/pkg/block"
)

// plane is a running control plane: the one place that knows all its rooms.
type plane struct {
	log       *slog.Logger
	options   *serveOptions
	metrics   *prometheus.Registry
	inventory *inventory.Inventory
	authority *pki.Authority
	handler   http.Handler
}

func newPlane(ctx context.Context, o *serveOptions, log *slog.Logger) (_ *plane, err error) {
	p := &plane{log: log, options: o, metrics: prometheus.NewRegistry()}
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	relays, err := o.relayAddresses()
	if err != nil {
		return nil, err
	}
	if p.authority, err = pki.Open(o.path("pki"), time.Now); err != nil {
		return nil, err
	}
	if p.inventory, err = inventory.Open(ctx, o.path("inventory.db"), time.Now, log); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	token, err := operatorToken(o.data)
	if err != nil {
		return nil, err
	}
	if err := p.inventory.SetOperator(ctx, "admin", token); err != nil {
		return nil, err
	}
	p.handler = api.New(api.Options{
		Inventory:   p.inventory,
		Enrolment:   pki.NewEnrolment(p.authority, p.inventory),
		Authority:   p.authority,
		Replication: p,
		Relays:      relays,
		Metrics:     p.metrics,
		Version:     version,
		Now:         time.Now,
		Log:         log,
	})
	return p, nil
}

// Replication implements api.Replication.
func (p *plane) Replication(block.MachineID) inventory.Replication { return inventory.Replication{} }

func (p *plane) close() {
	if err := p.inventory.Close(); err != nil {
		p.log.Error("cannot close the inventory", "err", err)
	}
}

// serve runs until the context ends or a part of the plane fails.
func (p *plane) serve(ctx context.Context) error {
	listener, err := net.Listen("tcp", p.options.apiListen)
	if err != nil {
		return fmt.Errorf("the API cannot listen on %s: %w: choose another --api-listen", p.options.apiListen, err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.serveAPI(ctx, listener) })
	group.Go(func() error {
		p.inventory.Track(ctx, p.Replication)
		return nil
	})
	p.log.Info("control plane started", "version", version, "api", listener.Addr().String(), "data", p.options.data)
	return group.Wait()
}

func (p *plane) serveAPI(ctx context.Context, listener net.Listener) error {
	server := api.NewServer(ctx, p.handler, p.authority.NewServer(pki.RoleAPI, p.options.names...).TLS(), p.log)
	context.AfterFunc(ctx, func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		if err := server.Shutdown(stop); err != nil {
			p.log.Warn("requests were cut off", "err", err)
		}
	})
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("the API: %w", err)
	}
	return nil
}
