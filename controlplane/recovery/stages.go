package recovery

import (
	"context"
	"crypto/sha256"
	"errors"
	"iter"
	"os"
	"slices"
	"sync"

	"github.com/understudy-dr/understudy/controlplane/recovery/vhd"
)

// open takes hold of the file, making it if there is none, and changes nothing.
func (f *fill) open() error {
	path, flag := f.plan.file, os.O_RDWR
	if path == "" {
		path, flag = f.target.partial(), os.O_RDWR|os.O_CREATE|os.O_EXCL
	}
	file, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return f.busyIf(err, os.ErrExist, os.ErrNotExist)
	}
	f.file = file
	if err := lock(file); err != nil {
		return f.busyIf(err, ErrBusy)
	}
	// What was surveyed must still be so, now that nobody else can change it.
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	side, err := ReadSidecar(f.target.Path)
	if err != nil && !missing(err) {
		return err
	}
	if (f.plan.file != "" && inode(fi) != f.inode) || !sameSidecar(side, f.found) {
		return f.busyIf(ErrBusy, ErrBusy)
	}
	f.inode = inode(fi)
	return nil
}

// busyIf turns an error that means that somebody else is at work here into ErrBusy.
func (f *fill) busyIf(err error, signs ...error) error {
	if slices.ContainsFunc(signs, func(sign error) bool { return errors.Is(err, sign) }) {
		return f.refuse(ErrBusy, "wait for it, or stop it")
	}
	return err
}

func sameSidecar(a, b *Sidecar) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Updated.Equal(b.Updated) && a.State == b.State
}

// prepare declares the target unfinished, then makes it so.
func (f *fill) prepare() error {
	size := f.disk.Image.Size()
	f.side = &Sidecar{Origin: f.disk.Origin, State: StateWriting, Format: f.target.Format, Size: size, Done: f.from, Inode: f.inode}
	keep := int64(0) // bytes of the file that stay
	switch {
	case f.act == actPatch:
		// Until it is complete the size is the smallest of all positions held: what
		// lies beyond is written anew however often this is interrupted.
		keep = min(size, f.found.Size)
		f.side.Size = keep
		f.side.Holds = f.holds
		if !slices.Contains(f.holds, f.disk.Position) {
			f.side.Holds = append(slices.Clone(f.holds), f.disk.Position)
		}
	case f.from > 0:
		keep = size
	}
	if err := f.side.save(f.target.Path); err != nil {
		return err
	}
	if f.plan.file == f.target.Path {
		if err := renameNew(f.target.Path, f.target.partial()); err != nil {
			return err
		}
	}
	if err := f.file.Truncate(keep); err != nil {
		return err
	}
	return f.file.Truncate(f.target.Format.fileSize(size))
}

// produce hands out the work and waits until all of it is written and synced.
func (f *fill) produce(ctx context.Context, tasks chan<- task) error {
	var flying sync.WaitGroup
	for t, err := range f.tasks(ctx) {
		if err != nil {
			return err
		}
		t.fill, t.done = f, flying.Done
		flying.Add(1)
		select {
		case tasks <- t:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	flying.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.file.Sync()
}

// tasks takes the work up, by pieces or by lots.
func (f *fill) tasks(ctx context.Context) iter.Seq2[task, error] {
	return func(yield func(task, error) bool) {
		if f.work.hoard != nil {
			for l, err := range f.work.lots(ctx) {
				if err == nil {
					f.take(l.Off(), l.Off())
				}
				if !yield(task{lot: l}, err) || err != nil {
					return
				}
			}
			return
		}
		for p, err := range f.work.pieces(ctx) {
			if err == nil {
				f.take(p.Off, p.End())
			}
			if !yield(task{piece: p}, err) || err != nil {
				return
			}
		}
	}
}

func (t task) run(ctx context.Context, buf []byte) error {
	defer t.done()
	if t.lot != nil {
		if err := t.fill.scatter(ctx, t.lot); err != nil {
			return err
		}
		return t.fill.landed(t.lot.Off())
	}
	if err := t.fill.write(ctx, t.piece, buf); err != nil {
		return err
	}
	return t.fill.landed(t.piece.Off)
}

// commit gives a filled target its footer and its name.
func (f *fill) commit() error {
	size := f.disk.Image.Size()
	if f.target.Format == FixedVHD {
		if err := f.writeFooter(size); err != nil {
			return err
		}
	}
	fi, err := f.file.Stat()
	if err != nil {
		return err
	}
	if err := renameNew(f.target.partial(), f.target.Path); err != nil {
		if errors.Is(err, os.ErrExist) {
			return f.refuse(ErrForeign, "it appeared while the disk was being written: move %s away and repeat", f.target.Path)
		}
		return err
	}
	done := Sidecar{Origin: f.disk.Origin, State: StateComplete, Format: f.target.Format, Size: size, Inode: f.inode, Modified: fi.ModTime().UTC()}
	return done.save(f.target.Path)
}

// writeFooter ends a VHD. Its id is the disk's for good, whatever the point, so that
// a guest does not take an advanced disk for a new one.
func (f *fill) writeFooter(size int64) error {
	id := sha256.Sum256([]byte("understudy vhd\x00" + f.disk.Machine.String() + f.disk.Disk.String()))
	footer := vhd.Footer{Size: vhd.DiskSize(size), Created: f.side.Updated, ID: [16]byte(id[:16])}.Encode()
	if _, err := f.file.WriteAt(footer[:], vhd.DiskSize(size)); err != nil {
		return err
	}
	return f.file.Sync()
}

// close lets go of the file, and of the empty file that open made if it came to
// nothing more.
func (f *fill) close() error {
	if f.file == nil {
		return nil
	}
	if f.side == nil && f.plan.file == "" {
		if fi, err := f.file.Stat(); err == nil && fi.Size() == 0 && inode(fi) == f.inode {
			_ = os.Remove(f.target.partial()) // nothing depends on it: the next run takes it over
		}
	}
	return f.file.Close()
}
