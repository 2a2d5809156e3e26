package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// source is a disk to copy, on the real disk.
type source struct {
	disk *lab.Disk
	size int64
	used float64 // share of it that is in use
	path string  // where to write to change it: the device, or a file
}

// fullSource is a disk without a file system, all of it written.
func (s *stage) fullSource(ctx context.Context, size int64, data pool) (*source, error) {
	d, err := s.disk(ctx, "source", size)
	if err != nil {
		return nil, err
	}
	return &source{disk: d, size: size, used: 1, path: d.Device}, fillFile(d.Device, data)
}

// halfSource is a mounted ext4 that was full once: half of its files are deleted, and
// what they held still lies on the disk, as on a disk that nobody trims.
func (s *stage) halfSource(ctx context.Context, size int64, data pool) (*source, error) {
	d, err := s.disk(ctx, "source", size)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(d.Format(ctx, lab.Ext4), d.MountUp(ctx, false)); err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(d.Mount, &fs); err != nil {
		return nil, err
	}
	half := int64(fs.Bfree) * fs.Bsize * 48 / 100 / mib * mib
	kept, gone := filepath.Join(d.Mount, "kept"), filepath.Join(d.Mount, "gone")
	for _, path := range []string{kept, gone} {
		f, err := os.Create(path)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, half), f.Close(), fillFile(path, data)); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(os.Remove(gone), syncFS(d.Mount)); err != nil {
		return nil, err
	}
	err = unix.Statfs(d.Mount, &fs)
	return &source{disk: d, size: size, used: 1 - float64(fs.Bfree)/float64(fs.Blocks), path: kept}, err
}

func fillFile(path string, data pool) error {
	w, err := newWriter(path, data)
	if err != nil {
		return err
	}
	return errors.Join(w.fill(), w.close())
}

// change overwrites this share of the disk in pieces of 16 KiB at random places.
func (src *source) change(share float64, round uint64, data pool) error {
	w, err := newWriter(src.path, data)
	if err != nil {
		return err
	}
	w.reseed(round)
	for left := int64(share * float64(src.size)); left > 0; left -= changePiece {
		if err := w.one(changePiece); err != nil {
			return errors.Join(err, w.close())
		}
	}
	return errors.Join(w.f.Sync(), w.close())
}

const changePiece = 16 * kib

func (src *source) String() string {
	return fmt.Sprintf("%d MiB, %.0f%% in use", src.size/mib, 100*src.used)
}
