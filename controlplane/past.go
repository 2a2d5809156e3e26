package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/controlplane/api"
	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/recovery"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// past is the vault as the API and failovers need it: api.Points, failover.Points and
// failover.Recoverer.
type past struct{ vault *vault.Vault }

func (p past) machine(ctx context.Context, id block.MachineID) (*vault.Machine, error) {
	m, err := p.vault.Machine(ctx, id)
	return m, vaultProblem(err)
}

// pointAt is the point of the machine that is meant.
func (p past) pointAt(ctx context.Context, id block.MachineID, spec string) (*vault.Machine, vault.Point, error) {
	m, err := p.machine(ctx, id)
	if err != nil {
		return nil, vault.Point{}, err
	}
	q, err := m.PointAt(ctx, spec)
	return m, q, vaultProblem(err)
}

// Points implements api.Points.
func (p past) Points(ctx context.Context, id block.MachineID, from, to time.Time, limit int) (api.History, error) {
	h := api.History{Items: []failover.Point{}}
	m, err := p.vault.Machine(ctx, id)
	if errors.Is(err, vault.ErrNoMachine) {
		h.Pending = "nothing of this machine is in the vault yet"
		return h, nil
	}
	if err != nil {
		return h, vaultProblem(err)
	}
	status, err := m.Status(ctx)
	if err != nil {
		return h, vaultProblem(err)
	}
	points, err := m.Points(ctx, from, to)
	if err != nil {
		return h, vaultProblem(err)
	}
	h.Pending, h.Total = status.Pending, len(points)
	doubts, err := m.Doubts(ctx)
	if err != nil {
		return h, vaultProblem(err)
	}
	h.Doubts = doubtsOf(doubts)
	for _, q := range points[max(0, len(points)-limit):] {
		h.Items = append(h.Items, doubtedPoint(q, doubts, false))
	}
	h.Oldest, h.Newest = withDoubts(status.Oldest, doubts), withDoubts(status.Newest, doubts)
	return h, nil
}

// Point implements api.Points.
func (p past) Point(ctx context.Context, id block.MachineID, spec string) (api.PointDetail, error) {
	var d api.PointDetail
	err := p.view(ctx, id, spec, func(v *vault.View, q vault.Point) (err error) {
		if d.Point, err = p.Resolve(ctx, id, q.Position.String()); err != nil {
			return err
		}
		m, err := p.machine(ctx, id)
		if err != nil {
			return err
		}
		if d.LockedBy, err = m.Locks(ctx, q.Position); err != nil {
			return vaultProblem(err)
		}
		for _, k := range v.Disks() {
			d.Disks = append(d.Disks, api.PointDisk{ID: k.ID, Name: k.Name, Path: k.Path, Size: k.Size})
		}
		return nil
	})
	return d, err
}

// Lock implements api.Points.
func (p past) Lock(ctx context.Context, id block.MachineID, spec, name string) (api.PointDetail, error) {
	return p.relock(ctx, id, spec, name, (*vault.Machine).Lock)
}

// Unlock implements api.Points.
func (p past) Unlock(ctx context.Context, id block.MachineID, spec, name string) (api.PointDetail, error) {
	return p.relock(ctx, id, spec, name, (*vault.Machine).Unlock)
}

func (p past) relock(ctx context.Context, id block.MachineID, spec, name string, change func(*vault.Machine, context.Context, block.Position, string) error) (d api.PointDetail, err error) {
	if name == runsFrom {
		return d, problem.New(problem.Conflict, "commit or clean up the failover: understudy failover list", "the lock %q is the control plane's own", name)
	}
	m, q, err := p.pointAt(ctx, id, spec)
	if err != nil {
		return d, err
	}
	if err := change(m, ctx, q.Position, name); err != nil {
		return d, vaultProblem(err)
	}
	return p.Point(ctx, id, q.Position.String())
}

// Resolve implements failover.Points.
func (p past) Resolve(ctx context.Context, id block.MachineID, spec string) (failover.Point, error) {
	m, q, err := p.pointAt(ctx, id, spec)
	if err != nil {
		return failover.Point{}, err
	}
	doubts, err := m.Doubts(ctx)
	return doubtedPoint(q, doubts, true), vaultProblem(err)
}

// view opens the machine's disks at the point that is meant, for the time of fn.
func (p past) view(ctx context.Context, id block.MachineID, spec string, fn func(*vault.View, vault.Point) error) (err error) {
	m, q, err := p.pointAt(ctx, id, spec)
	if err != nil {
		return err
	}
	v, err := m.View(ctx, q.Position)
	if err != nil {
		return vaultProblem(err)
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	return fn(v, q)
}

// Materialise implements failover.Recoverer.
func (p past) Materialise(ctx context.Context, id block.MachineID, at block.Position, dir, format string, progress func(inventory.JobProgress)) ([]failover.Copy, error) {
	f, err := recovery.ParseFormat(format)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, fmt.Errorf("the directory for the copies: %w", err)
	}
	var made []failover.Copy
	err = p.view(ctx, id, at.String(), func(v *vault.View, q vault.Point) error {
		results, err := recovery.MaterialiseMachine(ctx, p.disks(ctx, id, v), dir, f, recovery.Options{
			Progress: func(n recovery.Progress) { progress(jobProgress(n)) },
		})
		for _, r := range results {
			made = append(made, failover.Copy{Disk: r.Disk, Name: r.Name, File: r.Target.Path, Size: r.Size})
		}
		return targetProblem(err)
	})
	return made, err
}

func jobProgress(n recovery.Progress) inventory.JobProgress {
	return inventory.JobProgress{Done: n.Done, Total: n.Total, Rate: n.Rate, ETASeconds: max(0, n.ETA.Seconds())}
}

// Remove implements failover.Recoverer.
func (p past) Remove(_ context.Context, id block.MachineID, dir string) ([]string, error) {
	if !exists(dir) {
		return []string{}, nil
	}
	removed, err := recovery.RemoveMachine(dir, id)
	if err != nil {
		return removed, targetProblem(err)
	}
	// Somebody else's files may lie beside ours; then the directory stays.
	_ = os.Remove(dir)
	return append([]string{}, removed...), nil
}

// disks are the disks of a view as recovery takes them. They live as long as it.
func (p past) disks(ctx context.Context, id block.MachineID, v *vault.View) []recovery.Disk {
	var out []recovery.Disk
	for _, d := range v.Disks() {
		out = append(out, recovery.Disk{
			Origin: recovery.Origin{Vault: p.vault.ID(), Machine: id, Disk: d.ID, Name: d.Name, Position: v.Position()},
			Image:  &image{ctx: ctx, view: v, disk: d},
		})
	}
	return out
}

// image is one disk of a view. io.ReaderAt has no room for a context, so the one that
// the view was opened for is kept; the image does not outlive it.
type image struct {
	ctx  context.Context
	view *vault.View
	disk vault.Disk

	once    sync.Once
	extents []vault.Extent // all of the disk's, once somebody asks for a part
	err     error
}

func (i *image) Size() int64 { return i.disk.Size }

func (i *image) ReadAt(p []byte, off int64) (int, error) {
	n, err := i.view.ReadAt(i.ctx, i.disk.ID, p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = vaultProblem(err)
	}
	return n, err
}

// Lots implements recovery.Hoard.
func (i *image) Lots(ctx context.Context, off int64) iter.Seq2[recovery.Lot, error] {
	return func(yield func(recovery.Lot, error) bool) {
		for l, err := range i.view.Lots(ctx, i.disk.ID, off) {
			if !yield(&l, err) || err != nil {
				return
			}
		}
	}
}

// Extents streams the whole disk's extents. Who asks for parts, as NBD clients do,
// asks often: then they are kept.
func (i *image) Extents(ctx context.Context, off, length int64) iter.Seq2[recovery.Extent, error] {
	part := block.Extent{Off: off, Len: length}
	return func(yield func(recovery.Extent, error) bool) {
		if off == 0 && length >= i.disk.Size {
			for e, err := range i.view.Extents(ctx, i.disk.ID) {
				if !yield(recovery.Extent{Off: e.Off, Len: e.Len, Zero: e.Zero}, err) || err != nil {
					return
				}
			}
			return
		}
		all, err := i.all()
		if err != nil {
			yield(recovery.Extent{}, err)
			return
		}
		for _, e := range all[sort.Search(len(all), func(k int) bool { return all[k].End() > off }):] {
			x := e.Intersect(part)
			if e.Off >= part.End() || !yield(recovery.Extent{Off: x.Off, Len: x.Len, Zero: e.Zero}, nil) {
				return
			}
		}
	}
}

func (i *image) all() ([]vault.Extent, error) {
	i.once.Do(func() {
		for e, err := range i.view.Extents(i.ctx, i.disk.ID) {
			if err != nil {
				i.extents, i.err = nil, err
				return
			}
			i.extents = append(i.extents, e)
		}
		i.extents = slices.Clip(i.extents)
	})
	return i.extents, i.err
}

func pointOf(q vault.Point) failover.Point {
	return failover.Point{ID: q.Position.String(), Position: q.Position, Time: q.Time, Kind: string(q.Kind), Name: q.Name, Locked: q.Locked, Problem: q.Problem}
}

// vaultProblem tells an operator what an error of the vault means.
func vaultProblem(err error) error {
	point, isPoint := errors.AsType[*vault.PointError](err)
	switch {
	case err == nil:
		return nil
	case isPoint:
		return problem.New(problem.PointUnknown, "choose one of understudy point list; "+point.Available, "machine %s has no recovery point %q: %s", point.Machine, point.Spec, point.Why)
	case errors.Is(err, vault.ErrNoMachine):
		return problem.New(problem.NoPoint, "protect a disk of the machine and wait for the state Protected", "nothing of this machine is in the vault")
	case errors.Is(err, vault.ErrDamaged):
		return problem.New(problem.Damaged, "run understudy vault check, and choose a point that does not need what is damaged", "%v", err)
	case errors.Is(err, objstore.ErrTransient):
		return problem.New(problem.Unavailable, "see whether the vault's store is reachable", "%v", err)
	default:
		return err
	}
}

// targetProblem tells an operator what stands in the way of a copy.
func targetProblem(err error) error {
	target, ok := errors.AsType[*recovery.TargetError](err)
	if !ok {
		return vaultProblem(err)
	}
	if p := vaultProblem(target.Err); problem.CodeOf(p) != problem.Internal {
		return p
	}
	code := problem.Internal
	for _, c := range []struct {
		err  error
		code problem.Code
	}{
		{recovery.ErrForeign, problem.Exists}, {recovery.ErrOtherDisk, problem.Exists}, {recovery.ErrOtherPoint, problem.Exists},
		{recovery.ErrAltered, problem.Exists}, {recovery.ErrBusy, problem.Conflict}, {recovery.ErrSpace, problem.Conflict},
	} {
		if errors.Is(target.Err, c.err) {
			code = c.code
		}
	}
	return problem.New(code, target.Remedy, "%s: %v", target.Path, target.Err)
}
