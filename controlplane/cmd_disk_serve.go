package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/recovery"
	"github.com/understudy-dr/understudy/controlplane/recovery/cache"
	"github.com/understudy-dr/understudy/controlplane/recovery/nbd"
	"github.com/understudy-dr/understudy/controlplane/recovery/overlay"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/obs"
	"github.com/understudy-dr/understudy/pkg/problem"
)

const (
	// serveMemory is the memory for what was read of the disks unless somebody says
	// otherwise, in MiB.
	serveMemory = 640
	// serveLeast is what reading ahead takes at least, in MiB.
	serveLeast = 64
)

type diskServeOptions struct {
	memory                 int64 // MiB
	place                  vaultPlace
	point, listen, overlay string
	readOnly, expose       bool
	inDoubt                bool
	held                   bool // somebody else keeps the retention away from the point
}

func newDiskServe(o *operator) *cobra.Command {
	s := &diskServeOptions{}
	cmd := &cobra.Command{
		Use:   "serve MACHINE [DISK...]",
		Short: "Serve disks of the past over NBD, at once",
		Long: `Serves disks of a machine as of a point over NBD until interrupted: nothing is copied
first. It reads the vault itself and needs no control plane. Without a DISK it serves
all of the machine, each as an export of its stable name.

Clients can write: what they write goes to an overlay, never to the vault. Without
--overlay it is gone when this ends; with it, the next serve of the same point finds
it again.

Whatever is read of a compressed frame, all of it is decompressed: what --memory holds
of the frames is what random reads are fast in.

The point is latest, latest-app, an id, a name or a moment. ` + momentHelp,
		Example: `  understudy disk serve web1 --point latest
  understudy disk serve web1 /dev/sda --point 14:03:20 --listen unix:/run/web1.sock
  qemu-system-x86_64 ... -drive file=nbd://127.0.0.1:10809/NAME,format=raw`,
		Args:              minArgs(1),
		ValidArgsFunction: o.completeMachineAndDisks,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDiskServe(cmd.Context(), o, s, cmd.OutOrStdout(), args)
		},
	}
	f := cmd.Flags()
	s.place.flags(f)
	f.BoolVar(&s.inDoubt, "in-doubt", false, "also a point that may show other bytes than the disks had")
	f.StringVar(&s.point, "point", "latest", "latest, latest-app, an id, a name or a moment")
	f.StringVar(&s.listen, "listen", nbd.DefaultAddress, "HOST:PORT or unix:PATH")
	f.StringVar(&s.overlay, "overlay", "", "directory that keeps what clients write")
	f.BoolVar(&s.readOnly, "read-only", false, "let clients write nothing")
	f.BoolVar(&s.expose, "expose", false, "allow an address that other hosts reach; NBD has no authentication")
	f.Int64Var(&s.memory, "memory", serveMemory, "MiB of memory for what was read, besides indexes")
	f.BoolVar(&s.held, "held", false, "leave it to the caller to keep the point")
	_ = f.MarkHidden("held")
	cmd.MarkFlagsMutuallyExclusive("overlay", "read-only")
	_ = cmd.MarkFlagDirname("overlay")
	return cmd
}

func runDiskServe(ctx context.Context, o *operator, s *diskServeOptions, w io.Writer, args []string) (err error) {
	if s.memory < serveLeast {
		return usage(fmt.Sprintf("--memory %d: %d MiB are the least", s.memory, serveLeast))
	}
	log := obs.NewLog(os.Stderr, slog.LevelWarn, false)
	v, err := s.place.in(o.data).openWith(ctx, vault.Options{Log: log, PayloadCache: s.memory << 20 / 5 * 4})
	if err != nil {
		return err
	}
	m, err := machineInVault(ctx, v, args[0])
	if err != nil {
		return err
	}
	point, err := m.PointAt(ctx, pointSpec(s.point, time.Now()))
	if err != nil {
		return vaultProblem(err)
	}
	doubts, err := m.InDoubt(ctx, point.Position)
	if err == nil {
		err = warnOfDoubts(point, doubts, s.inDoubt, os.Stderr)
	}
	if err != nil {
		return vaultProblem(err)
	}
	// Reading goes on while clients finish, after the interrupt.
	view, err := m.View(context.WithoutCancel(ctx), point.Position)
	if err != nil {
		return vaultProblem(err)
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	if !s.held {
		release, err := holdPoint(ctx, m, point, log)
		if err != nil {
			return err
		}
		defer release()
	}
	disks, err := chooseDisks(past{v}.disks(context.WithoutCancel(ctx), m.ID(), view), view, args[1:])
	if err != nil {
		return err
	}
	return s.serve(ctx, disks, func(ln net.Listener) error {
		return announce(o.printer(w), ln, point, disks)
	}, log)
}

// holdPoint keeps the control plane's thinning away from a point that is in use here.
func holdPoint(ctx context.Context, m *vault.Machine, p vault.Point, log *slog.Logger) (release func(), err error) {
	host, _ := os.Hostname()
	name := fmt.Sprintf("served by process %d of %s", os.Getpid(), host)
	switch err := m.Lock(ctx, p.Position, name); {
	case errors.Is(err, objstore.ErrReadOnly):
		log.Warn("the vault is read-only here: the retention may take this point away while it is served", "point", p.Position)
		return func() {}, nil
	case err != nil:
		return nil, vaultProblem(err)
	}
	return func() {
		if err := m.Unlock(context.WithoutCancel(ctx), p.Position, name); err != nil {
			log.Error("cannot give the point back to the retention", "point", p.Position, "err", err)
		}
	}, nil
}

// chooseDisks are the disks of these names; all for no name.
func chooseDisks(all []recovery.Disk, view *vault.View, names []string) ([]recovery.Disk, error) {
	if len(names) == 0 {
		return all, nil
	}
	was := view.Disks()
	var chosen []recovery.Disk
	for _, name := range names {
		i := slices.IndexFunc(was, func(d vault.Disk) bool { return name == d.Name || name == d.Path || name == d.ID.String() })
		if i < 0 {
			return nil, problem.New(problem.DiskUnknown, "see understudy point show", "the machine had no disk %q at this point", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// serve serves the disks until the context ends.
func (s *diskServeOptions) serve(ctx context.Context, disks []recovery.Disk, ready func(net.Listener) error, log *slog.Logger) (err error) {
	// Four fifths are for whole frames: a block costs no more than a copy while its frame
	// is in memory, and milliseconds once it is not.
	shared := cache.New(s.memory << 20 / 5)
	defer shared.Close()
	var exports []nbd.Export
	for _, d := range disks {
		d.Image = shared.Image(d.Image)
		e := nbd.Export{Name: d.Name, Description: "point " + d.Position.String(), Image: d.Image, ReadOnly: s.readOnly}
		if !s.readOnly {
			over, err := s.overlayOf(d)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, over.Close()) }()
			e.Image = over
		}
		exports = append(exports, e)
	}
	server, err := nbd.New(exports, nbd.Options{Log: log})
	if err != nil {
		return err
	}
	ln, err := nbd.Listen(s.listen, s.expose)
	if err != nil {
		return err
	}
	if err := ready(ln); err != nil {
		return errors.Join(err, ln.Close())
	}
	return server.Serve(ctx, ln)
}

func (s *diskServeOptions) overlayOf(d recovery.Disk) (*overlay.Overlay, error) {
	if s.overlay == "" {
		return overlay.Temporary(os.TempDir(), d)
	}
	if err := os.MkdirAll(s.overlay, 0o700); err != nil {
		return nil, fmt.Errorf("the overlay: %w", err)
	}
	return overlay.Open(filepath.Join(s.overlay, d.Disk.String()+overlaySuffix), d)
}

// served is what is told to a program.
type served struct {
	Point string    `json:"point"`
	Time  time.Time `json:"time"`
	URIs  []string  `json:"uris"`
}

func announce(out *printer, ln net.Listener, p vault.Point, disks []recovery.Disk) error {
	told := served{Point: p.Position.String(), Time: p.Time}
	for _, d := range disks {
		told.URIs = append(told.URIs, nbd.URI(ln, d.Name))
	}
	return out.show(told, func(t *table) {
		t.row("point", fmt.Sprintf("%s of %s", told.Point, clockMillis(told.Time)))
		for _, u := range told.URIs {
			t.row("serving", u)
		}
	})
}
