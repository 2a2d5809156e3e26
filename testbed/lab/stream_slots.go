package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// slotStream overwrites 4 KiB slots of preallocated files with O_DIRECT|O_DSYNC, as
// databases do with their pages. Over several file systems the values go around them,
// each written only after its predecessor on another disk is durable: they find out
// whether all disks of a recovery point are of one moment.
type slotStream struct {
	label string
	fs    []string
}

const (
	slotSize    = 4096
	slotsPerFS  = 128
	slotBytes   = slotSize * slotsPerFS
	directFlags = unix.O_DIRECT | unix.O_DSYNC
)

func (s slotStream) name() string { return s.label }

func (s slotStream) on() []string { return s.fs }

func (s slotStream) at(n uint64) place {
	return place{s.fs[n%uint64(len(s.fs))], spread(s.label, n, slotsPerFS)}
}

func (s slotStream) path(m mounts, fs string) string {
	return filepath.Join(m[fs], filepath.Base(s.label)+".slots")
}

func (s slotStream) open(m mounts, _ uint64) (writer, error) {
	w := &slotWriter{s: s, files: map[string]*os.File{}, buf: aligned(slotSize)}
	for _, fs := range s.fs {
		f, err := openSlots(s.path(m, fs))
		if err != nil {
			return nil, errors.Join(err, w.Close())
		}
		w.files[fs] = f
	}
	return w, nil
}

// openSlots opens a file whose blocks are all written, so that an overwrite is data
// only and touches no metadata.
func openSlots(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|directFlags, 0o644)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() < slotBytes {
		_, err = f.WriteAt(aligned(slotBytes), 0)
		err = errors.Join(err, f.Sync(), syncDir(filepath.Dir(path)))
	}
	return f, err
}

type slotWriter struct {
	s     slotStream
	files map[string]*os.File
	buf   []byte
}

func (w *slotWriter) write(n uint64) error {
	p := w.s.at(n)
	_, err := w.files[p.fs].WriteAt(content(w.buf, w.s.label, n), int64(p.slot)*slotSize)
	return err
}

func (w *slotWriter) Close() error {
	var errs []error
	for _, f := range w.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

func (s slotStream) prefix(m mounts) (uint64, error) {
	holds := map[place]uint64{}
	for _, name := range s.fs {
		b, err := os.ReadFile(s.path(m, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return 0, err
		}
		for slot := range uint64(len(b) / slotSize) {
			n, err := valueOf(b[slot*slotSize:(slot+1)*slotSize], s.label)
			if err != nil {
				return 0, fmt.Errorf("%s: %s slot %d %w", s.label, name, slot, err)
			}
			if n > 0 {
				holds[place{name, slot}] = n
			}
		}
	}
	return prefixOfPlaces(s.label, holds, s.at)
}

// aligned is zeroed memory that O_DIRECT takes.
func aligned(n int) []byte {
	b := make([]byte, n+slotSize)
	shift := int(-uintptr(unsafe.Pointer(&b[0])) & (slotSize - 1))
	return b[shift : shift+n : shift+n]
}
