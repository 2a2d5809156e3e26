package spool

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// Files is the file system under a spool: the operating system's, unless a simulation
// has one of its own in which power can be cut.
type Files interface {
	MkdirAll(dir string) error
	ReadDir(dir string) ([]fs.DirEntry, error)
	// Open opens a file for reading and writing; create makes it if there is none.
	Open(path string, create bool) (File, error)
	Rename(from, to string) error
	Remove(path string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
}

// File is an open file of the spool.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Name() string
	Size() (int64, error)
	// Allocate reserves the blocks of the first n bytes now, so that a full disk shows
	// when a segment is made and not in the middle of one.
	Allocate(n int64) error
	// Sync makes everything about the file durable; SyncData its bytes, without times
	// that nobody reads.
	Sync() error
	SyncData() error
}

// system is the operating system's file system.
type system struct{}

func (system) MkdirAll(dir string) error                 { return os.MkdirAll(dir, 0o700) }
func (system) ReadDir(dir string) ([]fs.DirEntry, error) { return os.ReadDir(dir) }
func (system) Rename(from, to string) error              { return os.Rename(from, to) }
func (system) Remove(path string) error                  { return os.Remove(path) }

func (system) Open(path string, create bool) (File, error) {
	flag := os.O_RDWR
	if create {
		flag |= os.O_CREATE
	}
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return file{f, openDirect(path)}, nil
}

func (system) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// file is one of the operating system's. The kernel keeps what is written past the page
// cache and what is read through it the same.
type file struct {
	*os.File
	direct *os.File // the same, past the page cache; nil where there is no such way
}

func (f file) WriteAt(b []byte, off int64) (int, error) {
	if f.direct != nil && wholePages(b, off) {
		if n, err := f.direct.WriteAt(b, off); !refused(err) {
			return n, err
		}
	}
	return f.File.WriteAt(b, off)
}

func (f file) Close() error {
	if f.direct == nil {
		return f.File.Close()
	}
	return errors.Join(f.direct.Close(), f.File.Close())
}

func (f file) Allocate(n int64) error { return allocate(f.File, n) }
func (f file) SyncData() error        { return syncData(f.File) }

func (f file) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}
