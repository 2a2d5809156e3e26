package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// Replay carries recovered disks forward in time: it writes the frames of the log onto
// them, record by record. It exists to do that wrongly: with a share of the records
// applied later than they should be, a replica is what a protection would have that
// loses the order of writes. Whoever judges replicas must notice.
type Replay struct {
	// Share of the records that come late, 0 to 1. With 0 the outcome is a recovery's.
	Share float64
	// Late is by how much at most, in the log's time.
	Late time.Duration
	// Delayed counts the records that came late, or will.
	Delayed int

	names  map[string]block.DiskID // by the disk's name in the lab
	files  map[block.DiskID]*os.File
	random *rand.Rand
	held   []heldRecord
}

type heldRecord struct {
	due    time.Time
	extent frame.Extent
	data   []byte
}

// NewReplay begins with these files, one for each disk by its name, which it changes.
func NewReplay(disks []*Disk, files map[string]string, seed uint64) (*Replay, error) {
	r := &Replay{names: map[string]block.DiskID{}, files: map[block.DiskID]*os.File{}, random: rand.New(rand.NewPCG(seed, 0))}
	for _, d := range disks {
		f, err := os.OpenFile(files[d.Name], os.O_RDWR, 0)
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		r.names[d.Name] = block.DiskIDFromName(d.Stable)
		r.files[r.names[d.Name]] = f
	}
	return r, nil
}

// Close closes the files.
func (r *Replay) Close() error {
	var errs []error
	for _, f := range r.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Apply writes the next frame of the log, and what is late and due by now.
func (r *Replay) Apply(f *frame.Frame) error {
	if f.Kind != frame.KindLog {
		return nil // a mark
	}
	payload, err := f.Payload(nil)
	if err != nil {
		return err
	}
	for e := range f.All() {
		var data []byte
		if e.Op == frame.OpWrite {
			data = payload[e.DataOff : e.DataOff+e.Len]
		}
		if r.random.Float64() < r.Share {
			due := f.Closed.Add(time.Duration(1 + r.random.Int64N(int64(r.Late))))
			r.held = append(r.held, heldRecord{due, e, data})
			r.Delayed++
			continue
		}
		if err := r.write(e, data); err != nil {
			return err
		}
	}
	return r.release(f.Closed)
}

func (r *Replay) release(now time.Time) error {
	var later []heldRecord
	for _, h := range r.held {
		if h.due.After(now) {
			later = append(later, h)
			continue
		}
		if err := r.write(h.extent, h.data); err != nil {
			return err
		}
	}
	r.held = later
	return nil
}

func (r *Replay) write(e frame.Extent, data []byte) (err error) {
	f := r.files[e.Disk]
	switch {
	case f == nil:
		return fmt.Errorf("a record of disk %s, which was not recovered", e.Disk)
	case e.Op == frame.OpWrite:
		_, err = f.WriteAt(data, e.Off)
	default: // what was discarded reads as zeros in a replica
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, e.Off, e.Len)
	}
	return err
}

// Snapshot copies the disks as they are now into dir, where they may be spoilt.
func (r *Replay) Snapshot(ctx context.Context, dir string) (map[string]string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	files := map[string]string{}
	for name, id := range r.names {
		files[name] = filepath.Join(dir, name+".img")
		if _, err := run(ctx, "cp", "--sparse=auto", r.files[id].Name(), files[name]); err != nil {
			return nil, err
		}
	}
	return files, nil
}
