package hrl

import (
	"fmt"
	"os"
	"unsafe"
)

// store is what a journal file lies on. Offsets and lengths are multiples of
// BlockSize except where it is mapped.
type store interface {
	// mapped is the stretch of the mapping itself; nil where the file is not mapped.
	mapped(off, n int64) []byte
	// read returns n bytes at off: of the mapping, or read into buf, which it replaces
	// by a larger one if it must.
	read(off, n int64, buf []byte) ([]byte, error)
	// write writes b, memory that came from aligned.
	write(b []byte, off int64) error
	// sync returns when all that was written is on stable storage.
	sync() error
	size() (int64, error)
	close() error
	// leave is close but for a mapping, which stays for the process's life.
	leave() error
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

func (s fileStore) mapped(int64, int64) []byte { return nil }

func (s fileStore) read(off, n int64, buf []byte) ([]byte, error) {
	if int64(cap(buf)) < n {
		buf = aligned(n)
	}
	buf = buf[:n]
	if got, err := s.f.ReadAt(buf, off); err != nil {
		return nil, fmt.Errorf("hrl: reading %d bytes at %d of %s, got %d: %w", n, off, s.f.Name(), got, err)
	}
	return buf, nil
}

func (s fileStore) write(b []byte, off int64) error {
	if _, err := s.f.WriteAt(b, off); err != nil {
		return fmt.Errorf("hrl: writing %d bytes at %d: %w", len(b), off, err)
	}
	return nil
}

func (s fileStore) sync() error {
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

func (s fileStore) close() error { return s.f.Close() }
func (s fileStore) leave() error { return s.f.Close() }

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
