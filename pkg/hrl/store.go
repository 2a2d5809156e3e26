package hrl

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"
)

// Store is an open journal file. Offsets and lengths are multiples of BlockSize except
// where it is mapped.
type Store interface {
	// Mapped is the stretch of the mapping itself; nil where the file is not mapped.
	Mapped(off, n int64) []byte
	// Read returns n bytes at off: of the mapping, or read into buf, which it replaces
	// by a larger one if it must.
	Read(off, n int64, buf []byte) ([]byte, error)
	// Write writes b, which begins on a multiple of BlockSize in memory.
	Write(b []byte, off int64) error
	// Sync returns when all that was written is on stable storage.
	Sync() error
	Close() error
	// Leave is Close but for a mapping, which stays for the process's life.
	Leave() error
}

// Files is the file system under a journal: the operating system's, unless a simulation
// has one of its own in which power can be cut.
type Files interface {
	// Head reads a file's first HeaderSize bytes, fewer where it ends before, and its size.
	Head(path string) (b []byte, size int64, err error)
	// Create makes a new file of so many zeros, all of them allocated.
	Create(path string, size int64) error
	// Open opens a file for its only user.
	Open(path string, kind Kind) (Store, error)
	Rename(from, to string) error
	Remove(path string) error
	// SyncDir makes the name of a file durable.
	SyncDir(path string) error
}

// system is the operating system's file system.
type system struct{}

func (system) Rename(from, to string) error               { return os.Rename(from, to) }
func (system) Remove(path string) error                   { return os.Remove(path) }
func (system) SyncDir(path string) error                  { return syncDir(path) }
func (system) Open(path string, kind Kind) (Store, error) { return openStore(path, kind) }

func (system) Head(path string) (b []byte, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	b = make([]byte, HeaderSize)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	size, err = fileStore{f}.size()
	return b[:n], size, err
}

func (system) Create(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	pin(f)
	return errors.Join(reserve(f, size), f.Close())
}

// aligned returns n bytes that begin on a multiple of BlockSize, as a disk wants
// them that is written past the page cache.
func aligned(n int64) []byte {
	b := make([]byte, n+BlockSize)
	skip := -int64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (BlockSize - 1)
	return b[skip : skip+n : skip+n]
}

// fileStore reads and writes a plain file.
type fileStore struct{ f *os.File }

func (s fileStore) Mapped(int64, int64) []byte { return nil }

func (s fileStore) Read(off, n int64, buf []byte) ([]byte, error) {
	if int64(cap(buf)) < n {
		buf = aligned(n)
	}
	buf = buf[:n]
	if got, err := s.f.ReadAt(buf, off); err != nil {
		return nil, fmt.Errorf("hrl: reading %d bytes at %d of %s, got %d: %w", n, off, s.f.Name(), got, err)
	}
	return buf, nil
}

func (s fileStore) Write(b []byte, off int64) error {
	if _, err := s.f.WriteAt(b, off); err != nil {
		return fmt.Errorf("hrl: writing %d bytes at %d: %w", len(b), off, err)
	}
	return nil
}

func (s fileStore) Sync() error {
	if err := datasync(s.f); err != nil {
		return fmt.Errorf("hrl: syncing %s: %w", s.f.Name(), err)
	}
	return nil
}

func (s fileStore) size() (int64, error) {
	fi, err := s.f.Stat()
	if err != nil {
		return 0, fmt.Errorf("hrl: %w", err)
	}
	return fi.Size(), nil
}

func (s fileStore) Close() error { return s.f.Close() }
func (s fileStore) Leave() error { return s.f.Close() }

// SpaceError says that a journal file cannot be made because its file system has no
// room. Nothing was changed.
type SpaceError struct {
	Path       string
	Need, Free int64 // bytes; Free is -1 where it is not known
}

func (e *SpaceError) Error() string {
	free := "less"
	if e.Free >= 0 {
		free = fmt.Sprintf("%d", e.Free)
	}
	return fmt.Sprintf("hrl: no room for the journal file %s: it needs %d bytes, the file system has %s: free some, choose a smaller size or another place", e.Path, e.Need, free)
}

// BusyError says that another process holds the file.
type BusyError struct{ Path string }

func (e *BusyError) Error() string {
	return fmt.Sprintf("hrl: journal file %s is in use by another process: only one agent can run on it", e.Path)
}
