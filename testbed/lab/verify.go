package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Verdict is what Verify looked at.
type Verdict struct {
	Checked int           // acknowledged values that were looked for, and found
	Found   int           // values found, with those that were not yet acknowledged
	Clean   int           // file systems that their own check found undamaged
	Streams []StreamFound // by name
	Wrong   []string      // disks and applications that an error was found on, by name
}

// StreamFound is one application's part.
type StreamFound struct {
	Name  string
	Acked uint64 // acknowledged before the point's time
	Found uint64 // the disks hold exactly the values 1..Found
	Begun uint64 // begun before the point's time
}

// Verify judges recovered disks, one file for each disk of the workload (by its name),
// that claim to be of this moment: the file systems replay their journals and have no
// damage, what lay there before protection is there, and each application finds all
// that was acknowledged before the moment, nothing begun after it, and nothing torn or
// missing in between. It writes to the files. Several may be judged at once.
func (w *Workload) Verify(ctx context.Context, l *Lab, files map[string]string, at time.Time) (v Verdict, err error) {
	var opened []*Disk
	defer func() {
		for _, d := range opened {
			c := context.WithoutCancel(ctx)
			err = errors.Join(err, d.Unmount(c), d.Detach(c))
		}
	}()
	m := mounts{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(w.disks)) {
		if files[name] == "" {
			return v, fmt.Errorf("no recovered file for disk %s", name)
		}
		d, err := l.OpenDisk(ctx, fmt.Sprintf("verify-%d-%s", w.judged.Add(1), name), files[name], w.disks[name].FS)
		if err != nil {
			return v, err
		}
		opened = append(opened, d)
		if err := w.checkDisk(ctx, d); err != nil {
			v.Wrong = append(v.Wrong, name)
			errs = append(errs, fmt.Errorf("disk %s as of %s: %w", name, at.Format(time.RFC3339Nano), err))
		} else {
			v.Clean++
		}
		if d.Mount != "" {
			m[name] = d.Mount
		}
	}
	return v, errors.Join(append(errs, w.judge(m, at, &v))...)
}

// checkDisk leaves the disk mounted if that is possible at all, and writable, since a
// database that is opened after a power cut rolls back what was not committed.
func (w *Workload) checkDisk(ctx context.Context, d *Disk) error {
	damage := d.CheckFS(ctx)
	if err := d.MountUp(ctx, false); err != nil {
		return errors.Join(damage, err)
	}
	return errors.Join(damage, checkSeed(d.Mount, d.FS, w.Seeded))
}

// judge compares what each application finds with the ledger, all of them even if one
// fails, except those whose disks cannot be mounted.
func (w *Workload) judge(m mounts, at time.Time, v *Verdict) error {
	var errs []error
	for _, s := range w.streams {
		if slices.ContainsFunc(s.on(), func(disk string) bool { return m[disk] == "" }) {
			continue // its disk's file system is said to be beyond repair already
		}
		found, err := s.prefix(m)
		if err != nil {
			v.Wrong = append(v.Wrong, s.name())
			errs = append(errs, err)
			continue
		}
		f := StreamFound{Name: s.name(), Found: found}
		f.Acked, f.Begun = w.ledger.Bounds(s.name(), at)
		v.Streams = append(v.Streams, f)
		v.Found += int(found)
		switch {
		case found < f.Acked:
			v.Wrong = append(v.Wrong, f.Name)
			errs = append(errs, fmt.Errorf("%s: values %d to %d were acknowledged before %s and are lost", f.Name, found+1, f.Acked, at.Format(time.RFC3339Nano)))
		case found > f.Begun:
			v.Wrong = append(v.Wrong, f.Name)
			errs = append(errs, fmt.Errorf("%s: value %d is there, but it was begun only after %s", f.Name, found, at.Format(time.RFC3339Nano)))
		default:
			v.Checked += int(f.Acked)
		}
	}
	return errors.Join(errs...)
}
