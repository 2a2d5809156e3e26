package recovery

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Options steer a materialisation.
type Options struct {
	// Workers is how many pieces of up to 4 MiB are read and written at once, over
	// all disks. 0 means four for each processor, at most 16.
	Workers int
	// Progress is called about five times a second and at each end of a disk, never by
	// two at once. It must not block. May be nil.
	Progress func(Progress)
	// DiscardChanges gives up what somebody wrote to a finished target, which is
	// otherwise refused with ErrAltered.
	DiscardChanges bool

	advance bool
}

func (o Options) workers() int {
	if o.Workers > 0 {
		return o.Workers
	}
	return min(4*runtime.GOMAXPROCS(0), 16)
}

// Result is what became of one disk.
type Result struct {
	Origin
	Target  Target
	Size    int64         // of the disk, bytes
	Data    int64         // bytes of it that had to be looked at
	Written int64         // bytes of that which were written: the rest were zero
	Resumed bool          // an interrupted materialisation was continued
	Patched bool          // an existing target was advanced by its differences only
	Already bool          // the target was at the point before
	Took    time.Duration // of the whole call
}

// Materialise writes the disk to the target and returns when it is on stable
// storage under its name. A target that is there already at this point is left
// alone, an interrupted one is continued; anything else in the way is refused
// before anything is touched.
func Materialise(ctx context.Context, d Disk, t Target, opts Options) (Result, error) {
	opts.advance = false
	return first(run(ctx, []Disk{d}, []Target{t}, opts))
}

// Advance brings a target that Materialise made to the point of d, newer or older.
// Where the image knows its changes it writes only those. While it runs the target
// carries a partial name; interrupted, it is continued by the next Advance to any
// point.
func Advance(ctx context.Context, d Disk, t Target, opts Options) (Result, error) {
	if _, err := ReadSidecar(t.Path); missing(err) {
		return Result{}, refuse(t.Path, d.Origin, ErrNoTarget, "materialise it first")
	}
	opts.advance = true
	return first(run(ctx, []Disk{d}, []Target{t}, opts))
}

func first(r []Result, err error) (Result, error) {
	if err != nil {
		return Result{}, err
	}
	return r[0], nil
}

// run brings every disk to its target. All are looked at before the first is
// touched, and all are filled before the first gets its final name.
func run(ctx context.Context, disks []Disk, targets []Target, opts Options) ([]Result, error) {
	start := time.Now()
	fills := make([]*fill, len(disks))
	for i, d := range disks {
		p, err := survey(d, targets[i], opts)
		if err != nil {
			return nil, err
		}
		w, err := plannedWork(ctx, p)
		if err != nil {
			return nil, failed(targets[i].Path, d.Origin, fmt.Errorf("asking the vault what it holds: %w", err))
		}
		fills[i] = &fill{plan: p, work: w, next: start.Add(checkpointEvery)}
	}
	totals, err := measure(ctx, fills)
	if err != nil {
		return nil, err
	}
	var sum int64
	for _, n := range totals {
		sum += n
	}
	m := newMeter(len(fills), sum, opts.Progress)
	if err := execute(ctx, fills, m, opts.workers()); err != nil {
		return nil, err
	}
	results := make([]Result, len(fills))
	for i, f := range fills {
		results[i] = f.result()
		results[i].Data, results[i].Took = totals[i], time.Since(start)
	}
	return results, nil
}

func (f *fill) result() Result {
	return Result{
		Origin:  f.disk.Origin,
		Target:  f.target,
		Size:    f.disk.Image.Size(),
		Written: f.written.Load(),
		Resumed: f.act != actNothing && f.found != nil && f.found.State == StateWriting && (f.from > 0 || f.act == actPatch),
		Patched: f.act == actPatch,
		Already: f.act == actNothing,
	}
}

// measure adds up the work of each fill and refuses what cannot fit.
func measure(ctx context.Context, fills []*fill) ([]int64, error) {
	totals := make([]int64, len(fills))
	need := map[unix.Fsid]int64{}
	for i, f := range fills {
		n, err := f.work.total(ctx)
		if err != nil {
			return nil, failed(f.target.Path, f.disk.Origin, err)
		}
		totals[i] = n
		free, fs, err := freeSpace(filepath.Dir(f.target.Path))
		if err != nil {
			return nil, failed(f.target.Path, f.disk.Origin, err)
		}
		if n > free-need[fs] {
			if n, err = f.growth(ctx, n); err != nil {
				return nil, failed(f.target.Path, f.disk.Origin, err)
			}
		}
		if need[fs] += n; need[fs] > free {
			return nil, f.refuse(ErrSpace, "it needs about %d MiB more here (with the disks before it), %d MiB are free: make room or choose another directory",
				need[fs]>>20, free>>20)
		}
	}
	return totals, nil
}

// growth is how much more the file may take, given that n bytes are to be written:
// what lies there already is overwritten or given back.
func (f *fill) growth(ctx context.Context, n int64) (int64, error) {
	if f.act == actFill && f.from > 0 {
		return n, nil
	}
	whole, err := plannedWork(ctx, &plan{disk: f.disk, act: actFill})
	if err != nil {
		return 0, err
	}
	all, err := whole.total(ctx)
	return min(n, max(0, all-f.have)), err
}

// task is one piece of one disk, or one lot of it.
type task struct {
	fill  *fill
	piece Extent
	lot   Lot // if not nil
	done  func()
}

// execute writes all fills with a shared pool of workers.
func execute(ctx context.Context, fills []*fill, m *meter, workers int) (err error) {
	defer func() {
		for _, f := range fills {
			err = errors.Join(err, failed(f.target.Path, f.disk.Origin, f.close()))
		}
	}()
	for _, step := range []func(*fill) error{(*fill).open, (*fill).prepare} {
		for _, f := range fills {
			if f.meter = m; f.act == actNothing {
				continue
			}
			if err := step(f); err != nil {
				return failed(f.target.Path, f.disk.Origin, err)
			}
		}
	}
	if err := pump(ctx, fills, workers); err != nil {
		return err
	}
	for _, f := range fills {
		if f.act != actNothing {
			if err := f.commit(); err != nil {
				return failed(f.target.Path, f.disk.Origin, err)
			}
		}
		m.diskDone()
	}
	return nil
}

// pump has the workers write every piece of every fill, and syncs each fill when
// its pieces are written.
func pump(ctx context.Context, fills []*fill, workers int) error {
	g, ctx := errgroup.WithContext(ctx)
	tasks := make(chan task)
	producers, pctx := errgroup.WithContext(ctx)
	for _, f := range fills {
		if f.act != actNothing {
			producers.Go(func() error { return failed(f.target.Path, f.disk.Origin, f.produce(pctx, tasks)) })
		}
	}
	g.Go(func() error {
		defer close(tasks)
		return producers.Wait()
	})
	for range workers {
		g.Go(func() error {
			buf := make([]byte, pieceSize)
			for t := range tasks {
				if err := t.run(ctx, buf); err != nil {
					return failed(t.fill.target.Path, t.fill.disk.Origin, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}
