package recoverytest

import (
	"context"
	"errors"
	"iter"
	"os"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/controlplane/recovery"
)

// File is a sparse file as a recovery.Image, for benchmarks of more than fits in
// memory.
type File struct {
	*os.File
	Bytes int64
}

// OpenFile opens the file at path.
func OpenFile(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &File{File: f, Bytes: fi.Size()}, nil
}

// Size is the file's size in bytes.
func (f *File) Size() int64 { return f.Bytes }

// Extents yields what lies between the file's holes.
func (f *File) Extents(_ context.Context, off, length int64) iter.Seq2[recovery.Extent, error] {
	return func(yield func(recovery.Extent, error) bool) {
		for end := min(off+length, f.Bytes); off < end; {
			data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) || data >= end {
				return
			}
			hole := int64(0)
			if err == nil {
				hole, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
			}
			if err != nil {
				yield(recovery.Extent{}, err)
				return
			}
			off = min(hole, end)
			if !yield(recovery.Extent{Off: data, Len: off - data}, nil) {
				return
			}
		}
	}
}
