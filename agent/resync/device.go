package resync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Device is a disk as a job sees it. ReadAt is called by several goroutines at once,
// with offset, length and memory aligned to block.FineGranule except for the length
// at the disk's end, and it must see what the disk holds, not what a cache holds.
type Device interface {
	io.ReaderAt
	io.Closer
	// Size is the disk's size now, in bytes.
	Size() (int64, error)
	// Usage finds free space and makes leaving it out safe (see usage.go).
	Usage(ctx context.Context) (Usage, error)
	// Sync has written to the disk whatever anybody holds in memory that belongs there:
	// file systems and page caches, however they are stacked on it. The error tells who
	// could not be made to; the others have.
	Sync(ctx context.Context) error
	// Layout is what Usage.Layout would be now.
	Layout() (string, error)
	// Activity counts what everybody did to the disk so far.
	Activity() (Activity, error)
}

// Usage is what is known about a disk's free space.
type Usage struct {
	// Free holds the stretches that need not be read, whole-disk offsets.
	Free *block.Set
	// Layout names the file systems that said so: which, where, how large. It changes
	// when one is unmounted, mounted or resized. wholeDisk if none said anything.
	Layout string
	// Whole tells an operator why parts are read whole though they may be half empty.
	Whole []string
}

// wholeDisk is the layout of a disk read without regard to file systems.
const wholeDisk = "whole"

// Activity counts finished requests of a disk, by whoever made them, since boot.
type Activity struct {
	Reads, Writes uint64
	ReadBytes     int64
	WriteWait     time.Duration // summed over all writes, queueing included
	ReadWait      time.Duration // summed over all reads
}

// ReadError is a stretch of a disk that could not be read.
type ReadError struct {
	Disk     block.DiskID
	Path     string
	Off, Len int64 // bytes; narrowed down to the first bad 4 KiB where possible
	Err      error
}

func (e *ReadError) Error() string {
	return fmt.Sprintf("resync: disk %s (%s): cannot read %d bytes at offset %d: %v: %s", e.Path, e.Disk, e.Len, e.Off, e.Err, e.Remedy())
}

func (e *ReadError) Unwrap() error { return e.Err }

// Remedy tells an operator what to do.
func (e *ReadError) Remedy() string {
	switch {
	case errors.Is(e.Err, syscall.ENXIO), errors.Is(e.Err, syscall.ENODEV):
		return "the disk is gone; attach it again, or take it out of protection"
	case errors.Is(e.Err, io.ErrUnexpectedEOF):
		return "the disk became smaller; it needs a new epoch with its new size"
	}
	return fmt.Sprintf("look into the kernel's log and the disk's health (dmesg, smartctl -a %s), rewrite or replace what is bad, then resync the disk", e.Path)
}

// read fills p from off. If that fails it looks for the first block that is to blame;
// a block that can be read after all was a passing fault.
func read(d *disk, p []byte, off int64) error {
	if n, err := d.dev.ReadAt(p, off); n == len(p) {
		return nil
	} else if len(p) <= block.FineGranule {
		return &ReadError{Disk: d.ID, Path: d.Path, Off: off, Len: int64(len(p)), Err: eof(err)}
	}
	for at := 0; at < len(p); at += block.FineGranule {
		if err := read(d, p[at:min(at+block.FineGranule, len(p))], off+int64(at)); err != nil {
			return err
		}
	}
	return nil
}

// eof names a short read what it is on a disk.
func eof(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
