package hrl

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Piece is a stretch of a file and where on a disk it lies.
type Piece struct {
	At int64 // in the file
	block.Extent
}

// Device is the operating system's files, but for one: Path is read and written at its
// pieces of a disk, past its file system, which is mounted read-only. It can neither be
// made nor replaced there.
type Device struct {
	system
	Path   string
	Disk   string  // the device, such as /dev/sda
	Pieces []Piece // ascending, without a gap, from the file's beginning to beyond its end
}

// errReadOnly is for what changes a file system that is read-only.
var errReadOnly = errors.New("hrl: its file system is not written to any more")

// Head reads the beginning of a file and its size.
func (d *Device) Head(path string) (b []byte, size int64, err error) {
	if path != d.Path {
		return d.system.Head(path)
	}
	s, err := d.Open(path, Disk)
	if err != nil {
		return nil, 0, err
	}
	info, err := os.Stat(path)
	if err == nil {
		b, err = s.Read(0, BlockSize, nil)
	}
	if err = errors.Join(err, s.Close()); err != nil {
		return nil, 0, err
	}
	return b[:HeaderSize], info.Size(), nil
}

// Create makes a file.
func (d *Device) Create(path string, size int64) error {
	if path == d.Path+".new" {
		return fmt.Errorf("%w: %s", errReadOnly, d.Path)
	}
	return d.system.Create(path, size)
}

// Rename renames a file.
func (d *Device) Rename(from, to string) error {
	if to == d.Path {
		return fmt.Errorf("%w: %s", errReadOnly, to)
	}
	return d.system.Rename(from, to)
}

// Open opens a file for its only user.
func (d *Device) Open(path string, kind Kind) (Store, error) {
	if path != d.Path {
		return d.system.Open(path, kind)
	}
	lock, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("hrl: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(&BusyError{Path: path}, lock.Close())
	}
	disk, err := os.OpenFile(d.Disk, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("hrl: %s at its place on the disk: %w", path, err), lock.Close())
	}
	return &deviceStore{fileStore{disk}, d.Pieces, lock}, nil
}

// deviceStore reads and writes a file at its pieces.
type deviceStore struct {
	fileStore
	pieces []Piece
	lock   *os.File
}

func (s *deviceStore) Read(off, n int64, buf []byte) ([]byte, error) {
	if int64(cap(buf)) < n {
		buf = aligned(n)
	}
	buf = buf[:n]
	return buf, s.each(buf, off, func(b []byte, at int64) error {
		_, err := s.fileStore.Read(at, int64(len(b)), b)
		return err
	})
}

func (s *deviceStore) Write(b []byte, off int64) error { return s.each(b, off, s.fileStore.Write) }

// each calls do with every part of b and its place on the disk.
func (s *deviceStore) each(b []byte, off int64, do func(b []byte, at int64) error) error {
	for _, p := range s.pieces {
		if len(b) == 0 {
			return nil
		}
		if off < p.At || off >= p.At+p.Len {
			continue
		}
		n := min(int64(len(b)), p.At+p.Len-off)
		if err := do(b[:n], p.Off+off-p.At); err != nil {
			return err
		}
		b, off = b[n:], off+n
	}
	if len(b) > 0 {
		return fmt.Errorf("hrl: %d bytes at %d lie nowhere on %s", len(b), off, s.f.Name())
	}
	return nil
}

func (s *deviceStore) Close() error { return errors.Join(s.fileStore.Close(), s.lock.Close()) }
func (s *deviceStore) Leave() error { return s.Close() }
