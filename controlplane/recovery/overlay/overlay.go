// Package overlay makes a disk of the past writable: what is written goes to a
// sparse file beside it, block by block, and the past stays as it is.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/controlplane/recovery"
)

// What can be wrong with the file. They arrive wrapped, with the path and a remedy.
var (
	ErrOtherPoint = errors.New("the overlay belongs to another disk or another point")
	ErrBusy       = errors.New("the overlay is in use by another process")
)

// Overlay is a writable disk over a base that never changes. It is a recovery.Image
// whose content does change. All methods are safe for concurrent use; concurrent
// access to the same bytes gives either order, as on a disk.
type Overlay struct {
	base   recovery.Image
	size   int64
	file   *os.File
	dataAt int64
	kept   bool
	bits   *bitmap
	claims claims
	syncs  syncs
	heads  sync.Pool // of *[BlockSize]byte, for copying blocks up
}

// Temporary makes an overlay that nobody can open again: its file in dir has no
// name, and goes when it is closed or the process ends, however it ends.
func Temporary(dir string, d recovery.Disk) (*Overlay, error) {
	f, err := os.CreateTemp(dir, "understudy-overlay-*")
	if err != nil {
		return nil, fmt.Errorf("overlay: making a temporary file for disk %s: %w", d.Name, err)
	}
	err = os.Remove(f.Name())
	if err == nil {
		err = f.Truncate(dataOffset(d.Image.Size()) + d.Image.Size())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("overlay: preparing a temporary file for disk %s: %w", d.Name, err), f.Close())
	}
	return build(f, d, false), nil
}

// Open opens the overlay file at path for the disk, or makes it. What was written
// before the last Sync or Close is there again. An overlay of another disk or
// another point, or any other file, is refused.
func Open(path string, d recovery.Disk) (*Overlay, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("overlay: opening %s for disk %s: %w", path, d.Name, err)
	}
	o := build(f, d, true)
	if err := o.load(path, d); err != nil {
		return nil, errors.Join(fmt.Errorf("overlay: %s for disk %s at %s: %w", path, d.Name, d.Position, err), f.Close())
	}
	return o, nil
}

func build(f *os.File, d recovery.Disk, kept bool) *Overlay {
	size := d.Image.Size()
	return &Overlay{
		base:   d.Image,
		size:   size,
		file:   f,
		dataAt: dataOffset(size),
		kept:   kept,
		bits:   newBitmap(size),
		claims: claims{freed: make(chan struct{})},
		heads:  sync.Pool{New: func() any { return new([BlockSize]byte) }},
	}
}

// load reads an overlay file, or initialises an empty one.
func (o *Overlay) load(path string, d recovery.Disk) error {
	if err := unix.Flock(int(o.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("%w: stop it first", ErrBusy)
		}
		return err
	}
	fi, err := o.file.Stat()
	if err != nil {
		return err
	}
	if fi.Size() == 0 {
		return o.initialise(path, d)
	}
	h, err := readHeader(o.file)
	if err != nil {
		return fmt.Errorf("%w: move it away or name another file", err)
	}
	if h.origin != d.Origin || h.size != o.size {
		return fmt.Errorf("%w: disk %s of machine %s at %s: name another file, or remove it", ErrOtherPoint, h.origin.Name, h.origin.Machine, h.origin.Position)
	}
	if fi.Size() == headerSize { // it was interrupted while being made
		return o.enlarge(path)
	}
	if fi.Size() < o.dataAt+o.size {
		return fmt.Errorf("%w: it has been cut short: remove it", ErrDamaged)
	}
	return o.loadMap()
}

func readHeader(f *os.File) (header, error) {
	b := make([]byte, headerSize)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return header{}, err
	}
	return decodeHeader(b)
}

// initialise makes an empty file an overlay.
func (o *Overlay) initialise(path string, d recovery.Disk) error {
	h, err := header{size: o.size, origin: d.Origin}.encode()
	if err != nil {
		return err
	}
	if _, err := o.file.WriteAt(h, 0); err != nil {
		return err
	}
	return o.enlarge(path)
}

// enlarge gives a file that has only its header its full, empty size.
func (o *Overlay) enlarge(path string) error {
	if err := o.file.Truncate(o.dataAt + o.size); err != nil {
		return err
	}
	if err := o.file.Sync(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// loadMap reads the map and clears what an unfinished process left in blocks that
// are not in it: such blocks must be holes.
func (o *Overlay) loadMap() error {
	b := make([]byte, pageBytes)
	for i := range o.bits.dirty {
		if _, err := o.file.ReadAt(b, headerSize+int64(i)*pageBytes); err != nil {
			return err
		}
		o.bits.load(i, b)
	}
	for at := int64(0); at < o.bits.blocks; {
		end, set := o.bits.run(at, o.bits.blocks)
		if !set {
			if err := o.punch(at*BlockSize, min(end*BlockSize, o.size)); err != nil {
				return err
			}
		}
		at = end
	}
	return nil
}

// Size is the size of the disk in bytes.
func (o *Overlay) Size() int64 { return o.size }

// Allocated is what the overlay takes on its file system, in bytes.
func (o *Overlay) Allocated() (int64, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(o.file.Fd()), &st)
	return st.Blocks * 512, err
}

// ReadAt reads the disk as it is now.
func (o *Overlay) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 || off >= o.size {
		return 0, io.EOF
	}
	if left := o.size - off; int64(len(p)) > left {
		p, err = p[:left], io.EOF
	}
	for n < len(p) {
		at := off + int64(n)
		end, set := o.bits.run(at/BlockSize, blocksOf(off+int64(len(p))))
		part := p[n:min(int64(len(p)), end*BlockSize-off)]
		var failed error
		if set {
			_, failed = o.file.ReadAt(part, o.dataAt+at)
		} else {
			failed = recovery.ReadFull(o.base, part, at)
		}
		if failed != nil {
			return n, failed
		}
		n += len(part)
	}
	return n, err
}

// Extents says where data lie, in the overlay and below it.
func (o *Overlay) Extents(ctx context.Context, off, length int64) iter.Seq2[recovery.Extent, error] {
	return func(yield func(recovery.Extent, error) bool) {
		limit := min(off+length, o.size)
		for at := off; at < limit; {
			end, set := o.bits.run(at/BlockSize, blocksOf(limit))
			to := min(end*BlockSize, limit)
			extents := recovery.Map(ctx, o.base, at, to-at)
			if set {
				extents = o.inFile(at, to)
			}
			for e, err := range extents {
				if !yield(e, err) || err != nil {
					return
				}
			}
			at = to
		}
	}
}

// inFile finds the data between the holes of [from, to), which is all in the file.
func (o *Overlay) inFile(from, to int64) iter.Seq2[recovery.Extent, error] {
	return func(yield func(recovery.Extent, error) bool) {
		fd := int(o.file.Fd())
		for from < to {
			data, err := unix.Seek(fd, o.dataAt+from, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				return // nothing but holes up to the end of the file
			}
			var hole int64
			if err == nil {
				hole, err = unix.Seek(fd, data, unix.SEEK_HOLE)
			}
			if err != nil {
				yield(recovery.Extent{}, err)
				return
			}
			data, hole = data-o.dataAt, min(hole-o.dataAt, to)
			if data >= to || !yield(recovery.Extent{Off: data, Len: hole - data}, nil) {
				return
			}
			from = hole
		}
	}
}

// Close syncs and lets go of the file. A temporary overlay is gone with it.
func (o *Overlay) Close() error {
	return errors.Join(o.Sync(), o.file.Close())
}

// Remove deletes an overlay file that nobody uses. Any other file is refused.
func Remove(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := readHeader(f); err != nil {
		return fmt.Errorf("overlay: not removing %s: %w", path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("overlay: not removing %s: %w: stop it first", path, ErrBusy)
	}
	return os.Remove(path)
}
