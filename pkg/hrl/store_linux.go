package hrl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mapStore is a file of a memory file system, mapped: what was stored in it is there
// for the next process, however this one ends.
type mapStore struct {
	fileStore
	m []byte
}

func (s *mapStore) Mapped(off, n int64) []byte { return s.m[off : off+n : off+n] }

func (s *mapStore) Read(off, n int64, _ []byte) ([]byte, error) { return s.Mapped(off, n), nil }

func (s *mapStore) Write(b []byte, off int64) error {
	copy(s.m[off:], b)
	return nil
}

// sync does nothing: no storage under a memory file system is stabler than itself.
func (s *mapStore) Sync() error { return nil }

func (s *mapStore) Close() error {
	return errors.Join(unix.Munmap(s.m), s.f.Close())
}

// leave also gives up the lock, which the mapping would keep.
func (s *mapStore) Leave() error {
	return errors.Join(unix.Flock(int(s.f.Fd()), unix.LOCK_UN), s.f.Close())
}

// openStore opens the file for its only user.
func openStore(path string, kind Kind) (Store, error) {
	f, err := openFile(path, kind)
	if err != nil {
		return nil, fmt.Errorf("hrl: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &BusyError{Path: path}
		}
		return nil, fmt.Errorf("hrl: locking %s: %w", path, err)
	}
	if kind == Disk {
		return fileStore{f}, nil
	}
	return mapFile(f)
}

// openFile asks for O_DIRECT on a disk, so that the journal neither evicts the
// machine's page cache nor is flushed at a time of the kernel's choosing. Where the
// file system knows no O_DIRECT the page cache serves.
func openFile(path string, kind Kind) (*os.File, error) {
	if kind == Disk {
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
		if !errors.Is(err, unix.EINVAL) {
			return f, err
		}
	}
	return os.OpenFile(path, os.O_RDWR, 0)
}

func mapFile(f *os.File) (Store, error) {
	fi, err := f.Stat()
	if err == nil && fi.Size() < HeaderSize {
		err = ErrShort
	}
	var m []byte
	if err == nil {
		m, err = unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("hrl: mapping %s: %w", f.Name(), err)
	}
	return &mapStore{fileStore{f}, m}, nil
}

func datasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

// reserve allocates the file's blocks, all or none.
func reserve(f *os.File, size int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("hrl: %s: %w", f.Name(), err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < size {
		return &SpaceError{Path: f.Name(), Need: size, Free: free}
	}
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return &SpaceError{Path: f.Name(), Need: size, Free: -1}
	case errors.Is(err, unix.EOPNOTSUPP): // zeroing will allocate
		err = f.Truncate(size)
	}
	if err != nil {
		return fmt.Errorf("hrl: allocating %d bytes for %s: %w", size, f.Name(), err)
	}
	return nil
}

// pin asks the file system to leave the file where it is. The journal's owner checks
// that it did, so a file system that knows no such wish may refuse.
func pin(f *os.File) {
	const noCow = 0x00800000 // FS_NOCOW_FL: copy-on-write would move every block written
	if flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|noCow)
	}
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("hrl: syncing the directory of %s: %w", path, err)
	}
	return nil
}
