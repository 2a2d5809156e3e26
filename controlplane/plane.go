package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/controlplane/api"
	"github.com/understudy-dr/understudy/controlplane/compute/qemu"
	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/controlplane/ingest"
	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/pki"
	"github.com/understudy-dr/understudy/controlplane/relay"
	"github.com/understudy-dr/understudy/pkg/obs"
	"github.com/understudy-dr/understudy/pkg/ready"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// plane is a running control plane: the one place that knows all its rooms.
type plane struct {
	options   *serveOptions
	log       *slog.Logger
	metrics   *prometheus.Registry
	inventory *inventory.Inventory
	authority *pki.Authority
	past      past
	rooms     failover.Rooms
	driver    *failover.Driver
	events    *relayEvents
	doubter   *doubter
}

// newPlane opens everything that is kept.
func newPlane(ctx context.Context, o *serveOptions, log *slog.Logger) (_ *plane, err error) {
	p := &plane{options: o, log: log, metrics: prometheus.NewRegistry()}
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if p.authority, err = pki.Open(o.path(pkiName), time.Now); err != nil {
		return nil, err
	}
	if p.past.vault, err = o.place.in(o.data).openOrCreate(ctx, p.metrics, log); err != nil {
		return nil, err
	}
	if p.inventory, err = openInventory(ctx, o.data, log); err != nil {
		return nil, err
	}
	token, err := operatorToken(o.data)
	if err == nil {
		err = p.inventory.SetOperator(ctx, "admin", token)
	}
	if err != nil {
		return nil, errors.Join(err, p.inventory.Close())
	}
	p.warnOfLostInventory(ctx)
	p.rooms = failover.Rooms{
		Inventory: p.inventory, Points: p.past, Recoverer: p.past, Disks: stage{p.past, o.place, o.data},
		Compute: qemu.New(qemu.Options{Emulate: o.emulate}), Facts: hardwareOf{p.inventory},
		Proofs: o.path(proofsName), Checks: o.path(checksName),
	}
	p.driver = failover.NewDriver(p.inventory, failover.Plans(p.rooms), "control plane", log)
	p.events = newRelayEvents(p.inventory, log)
	p.doubter = newDoubter(p.past.vault, p.inventory, log)
	return p, nil
}

// warnOfLostInventory tells of a vault with machines beside an inventory without any.
func (p *plane) warnOfLostInventory(ctx context.Context) {
	known, err := p.inventory.Machines(ctx)
	if err != nil || len(known) > 0 {
		return // the vault knows removed machines, too: only an empty inventory is telling
	}
	if stored, err := p.past.vault.Machines(ctx); err == nil && len(stored) > 0 {
		p.log.Warn("the vault has machines and the inventory has none: if it was lost, stop, and run understudy vault rebuild", "machines", len(stored))
	}
}

func (p *plane) close() {
	if err := p.inventory.Close(); err != nil {
		p.log.Error("cannot close the inventory", "err", err)
	}
}

// serve runs until the context ends or a part of the plane fails.
func (p *plane) serve(ctx context.Context) error {
	server, err := p.openRelay(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err := server.Close(); err != nil {
			p.log.Error("the relay did not stop in good order", "err", err)
		}
	}()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.options.apiListen)
	if err != nil {
		return fmt.Errorf("the API cannot listen on %s: %w: choose another --api-listen", p.options.apiListen, err)
	}
	failovers := failover.New(p.rooms, p.options.path(recoveredName), p.driver)
	known := newReplications(server, p.past.vault, p.log)
	handler, err := p.handler(known, failovers)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	group, ctx := errgroup.WithContext(ctx)
	background := func(run func(context.Context)) { group.Go(func() error { run(ctx); return nil }) }
	background(p.events.run)
	background(p.driver.Run)
	background(failovers.FollowDrills)
	background(func(ctx context.Context) { p.inventory.Track(ctx, known.Replication) })
	background(p.doubter.run)
	background((&custodian{vault: p.past.vault, inventory: p.inventory, log: p.log}).run)
	background(func(ctx context.Context) { followPolicies(ctx, p.inventory, server, p.log) })
	group.Go(func() error { return p.serveAPI(ctx, listener, handler) })
	if err := p.writeAddress(listener.Addr()); err != nil {
		return err
	}
	p.log.Info("control plane started", "version", obs.BuildVersion(), "api", listener.Addr().String(), "relay", server.Addr().String(), "data", p.options.data)
	if err := ready.Tell(ctx); err != nil {
		p.log.Warn("the service manager was not told", "err", err)
	}
	return group.Wait()
}

func (p *plane) openRelay(ctx context.Context) (*relay.Server, error) {
	own := p.authority.NewServer(pki.RoleRelay)
	return relay.Open(ctx, relay.Config{
		Addr:       p.options.relayListen,
		TLS:        wire.RelayTLS(own.Certificate, p.authority.Pool()),
		Vault:      ingest.Vault{Vault: p.past.vault},
		Authorize:  authorize(p.inventory),
		Event:      p.events.take,
		SpoolDir:   p.options.path(spoolName),
		SpoolLimit: int64(p.options.spoolLimit),
		Build:      obs.BuildVersion(),
		Registerer: p.metrics,
		Log:        p.log,
	})
}

func (p *plane) handler(known *replications, failovers *failover.Failovers) (http.Handler, error) {
	relays, err := p.options.relayAddresses()
	if err != nil {
		return nil, err
	}
	return api.New(api.Options{
		Inventory: p.inventory,
		Enrolment: pki.NewEnrolment(p.authority, p.inventory),
		Authority: p.authority,
		Relay:     known,
		Points:    p.past,
		Found:     p.doubter.tell,
		Agents:    p.options.agentPrograms(),
		Failovers: failovers,
		Progress:  p.driver.WithProgress,
		Relays:    relays,
		Metrics:   p.metrics,
		Version:   obs.BuildVersion(),
		Now:       time.Now,
		Log:       p.log,
	}), nil
}

func (p *plane) serveAPI(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := api.NewServer(ctx, handler, p.authority.NewServer(pki.RoleAPI, p.options.names...).TLS(), p.log)
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

// writeAddress lets the operator's tool on this host find the API.
func (p *plane) writeAddress(addr net.Addr) error {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	path := filepath.Join(p.options.data, addressName)
	return os.WriteFile(path, []byte("https://"+net.JoinHostPort(host, port)+"\n"), 0o644)
}
