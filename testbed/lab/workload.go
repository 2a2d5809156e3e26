package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Workload is what the protected machine does: several applications a file system, one
// over all of them, and whatever else keeps a machine's disks busy.
type Workload struct {
	// Pause is how long each application rests between two values.
	Pause time.Duration
	// Churn is how many bytes a second each file system takes besides; 0 for none.
	Churn int64
	// Trim is how often free space is given back; 0 for never.
	Trim time.Duration
	// Seeded is how many megabytes Seed put on each disk; Verify looks for them.
	Seeded int

	ledger  *Ledger
	disks   map[string]*Disk // by name
	order   []*Disk
	wide    bool
	judged  atomic.Int64 // disks that Verify opened so far
	streams []stream

	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	errs   []error
}

// NewWorkload is a workload for these mounted disks, with moderate habits.
func NewWorkload(ledger *Ledger, disks ...*Disk) *Workload {
	w := &Workload{Pause: 4 * time.Millisecond, Churn: 4 << 20, Trim: 7 * time.Second, ledger: ledger, disks: map[string]*Disk{}, order: disks}
	for i, d := range disks {
		w.disks[d.Name] = d
		w.streams = append(w.streams,
			logStream{d.Name},
			renameStream{d.Name},
			slotStream{d.Name + "/slots", []string{d.Name}},
			sqliteStream{d.Name, "sqlite", journals[i%2]})
	}
	if names := slices.Sorted(maps.Keys(w.disks)); len(names) > 1 {
		w.streams = append(w.streams, slotStream{"all/chain", names})
	}
	return w
}

var journals = [2]string{"wal", "delete"} // SQLite's

// Widen has each file system also run SQLite in the other journal mode, a tree of names
// that changes by metadata alone, and storms of such changes that promise nothing. The
// workload must not have started.
func (w *Workload) Widen() {
	for i, d := range w.order {
		w.streams = append(w.streams, sqliteStream{d.Name, "sqlite-" + journals[(i+1)%2], journals[(i+1)%2]}, treeStream{d.Name})
	}
	w.wide = true
}

// Start begins, or goes on where Stop ended. It is bound to the lab, not to a context:
// Close stops it.
func (w *Workload) Start(l *Lab) error {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	l.OnClose(func() { _ = w.Stop() }) // whoever wants to know has asked before
	m := mounts{}
	for name, d := range w.disks {
		m[name] = d.Mount
	}
	for _, s := range w.streams {
		done, begun := w.ledger.Bounds(s.name(), time.Now())
		if done != begun {
			return fmt.Errorf("%s has a value that was begun and never acknowledged", s.name())
		}
		wr, err := s.open(m, done)
		if err != nil {
			return errors.Join(err, w.Stop())
		}
		w.goDo(s.name(), func() error { return w.write(ctx, s.name(), wr) })
	}
	for name, d := range w.disks {
		if err := w.startHabits(ctx, name, d); err != nil {
			return errors.Join(err, w.Stop())
		}
	}
	return nil
}

func (w *Workload) startHabits(ctx context.Context, name string, d *Disk) error {
	if w.Churn > 0 {
		c, err := newChurn(d.Mount, w.Churn)
		if err != nil {
			return err
		}
		c.storms = w.wide
		w.goDo(name+"/churn", func() error { return c.run(ctx) })
	}
	if w.Trim > 0 {
		w.goDo(name+"/trim", func() error { return w.trim(ctx, d) })
	}
	return nil
}

func (w *Workload) trim(ctx context.Context, d *Disk) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(w.Trim):
		}
		if err := d.Trim(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// write lets one application make its values durable until ctx ends.
func (w *Workload) write(ctx context.Context, name string, wr writer) (err error) {
	defer func() { err = errors.Join(err, wr.Close()) }()
	for ctx.Err() == nil {
		n, err := w.ledger.begin(name)
		if err != nil {
			return err
		}
		if err := wr.write(n); err != nil {
			return fmt.Errorf("value %d: %w", n, err)
		}
		if err := w.ledger.ack(name); err != nil {
			return err
		}
		pause := w.Pause
		if r, ok := wr.(rester); ok {
			pause = max(pause, r.rest())
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// goDo runs f beside the caller. A panic becomes an error: it must not end the process
// while file systems are mounted.
func (w *Workload) goDo(name string, f func() error) {
	w.wg.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				w.fail(fmt.Errorf("%s: panic: %v", name, p))
			}
		}()
		if err := f(); err != nil {
			w.fail(fmt.Errorf("%s: %w", name, err))
		}
	})
}

func (w *Workload) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err)
}

// Stop ends the applications, each after the value it is at, and reports what went
// wrong in any of them.
func (w *Workload) Stop() error {
	if w.cancel != nil {
		w.cancel()
	}
	w.wg.Wait()
	return w.Err()
}

// Err is what has gone wrong so far: the machine must not suffer from its protection.
func (w *Workload) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.errs...)
}
