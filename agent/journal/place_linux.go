package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/mapper"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/hrl"
)

// placeOf asks the file system where the file lies (FIEMAP) and follows that down to the
// whole disk: through partitions, LVM and encryption.
func placeOf(path string) (Place, error) {
	l, err := lyingOf(path)
	if err != nil {
		return Place{}, err
	}
	set := &block.Set{}
	for _, p := range l.there {
		set.Add(p.Extent)
	}
	return Place{Path: path, Dev: l.disk, Extents: set.Extents()}, nil
}

// lying is where a file lies: its stretches, in its own order, on the device of its file
// system and on the whole disk under that.
type lying struct {
	dev, disk     uint64
	within, there []hrl.Piece
}

func lyingOf(path string) (l lying, err error) {
	f, err := os.Open(path)
	if err != nil {
		return lying{}, fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	if err := keepsPlaces(f); err != nil {
		return lying{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return lying{}, fmt.Errorf("journal: %s: %w", path, err)
	}
	l.dev = st.Dev
	if l.within, err = fiemap(f); err != nil {
		return lying{}, err
	}
	end := int64(0)
	for _, p := range l.within {
		if p.At != end {
			return lying{}, fmt.Errorf("%w: %s has nothing on the disk at %d", ErrNoPlace, path, end)
		}
		end += p.Len
	}
	if end < st.Size {
		return lying{}, fmt.Errorf("%w: %s has %d bytes, of which %d lie on the disk", ErrNoPlace, path, st.Size, end)
	}
	if l.disk, l.there, err = mapper.ToDisk(l.dev, l.within); err != nil {
		return lying{}, fmt.Errorf("%w: %s: %w", ErrNoPlace, path, err)
	}
	return l, nil
}

// DiskFor names the disk that a disk stage at this path lies on, or will. ErrNoPlace, in
// its words, if that cannot be told: a clean stop cannot be written there. Of a file that
// is not there yet all that its volume lies on must be one disk.
func DiskFor(path string) (disk string, err error) {
	l, err := lyingOf(path)
	if errors.Is(err, fs.ErrNotExist) {
		return diskFor(filepath.Dir(path))
	}
	return mapper.Name(l.disk), err
}

// diskFor looks at the file system of a directory, or of the one that it would be made in.
func diskFor(dir string) (disk string, err error) {
	f, err := os.Open(dir)
	for errors.Is(err, fs.ErrNotExist) && dir != "/" && dir != "." {
		dir = filepath.Dir(dir)
		f, err = os.Open(dir)
	}
	if err != nil {
		return "", fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	if err := keepsPlaces(f); err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", fmt.Errorf("journal: %s: %w", dir, err)
	}
	size, err := mapper.Size(st.Dev)
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrNoPlace, dir, err)
	}
	on, _, err := mapper.ToDisk(st.Dev, []hrl.Piece{{Extent: block.Extent{Len: size}}})
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrNoPlace, dir, err)
	}
	return mapper.Name(on), nil
}

// OnDevice are the files of a journal whose disk stage, at this path, is to be written
// when its file system is not any more: at its place on the disk, or on the mapped device
// that the file system lies on, which encrypts what passes through it.
func OnDevice(path string) (hrl.Files, error) {
	l, err := lyingOf(path)
	if err != nil {
		return nil, err
	}
	dev, pieces := l.disk, l.there
	if mapper.Mapped(l.dev) {
		dev, pieces = l.dev, l.within
	}
	return &hrl.Device{Path: path, Disk: "/dev/" + strings.ReplaceAll(mapper.Name(dev), "!", "/"), Pieces: pieces}, nil
}

// keepsPlaces refuses file systems that write elsewhere what is overwritten, or that
// answer FIEMAP with other addresses than the disk's.
func keepsPlaces(f *os.File) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("journal: %s: %w", f.Name(), err)
	}
	if st.Type != unix.EXT4_SUPER_MAGIC && st.Type != unix.XFS_SUPER_MAGIC {
		return fmt.Errorf("%w: %s is on a file system of type %#x: only ext4 and xfs leave a file in place and say where it lies", ErrNoPlace, f.Name(), st.Type)
	}
	return nil
}

// The kernel's struct fiemap and struct fiemap_extent.
type (
	fiemapHeader struct {
		start, length         uint64
		flags, mapped, counts uint32
		_                     uint32
	}
	fiemapExtent struct {
		logical, physical, length uint64
		_                         [2]uint64
		flags                     uint32
		_                         [3]uint32
	}
)

const (
	fsIocFiemap   = 0xc020660b // FS_IOC_FIEMAP
	fiemapSync    = 0x1        // FIEMAP_FLAG_SYNC
	fiemapLast    = 0x1        // FIEMAP_EXTENT_LAST
	fiemapMerged  = 0x1000     // FIEMAP_EXTENT_MERGED
	fiemapAtATime = 256
)

// fiemapAnswer is the kernel's to one question.
type fiemapAnswer struct {
	fiemapHeader
	extents [fiemapAtATime]fiemapExtent
}

// fiemap asks for the extents of a file.
func fiemap(f *os.File) ([]hrl.Piece, error) {
	return gatherExtents(f.Name(), func(q *fiemapAnswer) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocFiemap, uintptr(unsafe.Pointer(q))); errno != 0 {
			return fmt.Errorf("%w: FIEMAP of %s: %w", ErrNoPlace, f.Name(), errno)
		}
		return nil
	})
}

// gatherExtents asks until the last extent came. Any that is not plainly on the disk,
// written, and the file's alone is an error: it would move at the next write. So is an
// answer that leads nowhere.
func gatherExtents(name string, ask func(*fiemapAnswer) error) (pieces []hrl.Piece, err error) {
	var q fiemapAnswer
	for start := uint64(0); ; {
		q.fiemapHeader = fiemapHeader{start: start, length: 1<<63 - 1 - start, flags: fiemapSync, counts: fiemapAtATime}
		if err := ask(&q); err != nil {
			return nil, err
		}
		for _, e := range q.extents[:min(q.mapped, fiemapAtATime)] {
			if odd := e.flags &^ (fiemapLast | fiemapMerged); odd != 0 {
				return nil, fmt.Errorf("%w: %s has an extent with flags %#x at %d (not written, shared or encoded)", ErrNoPlace, name, odd, e.logical)
			}
			end := e.logical + e.length
			if end <= start || (e.logical|e.physical|e.length)>>62 != 0 {
				return nil, fmt.Errorf("%w: %s has an extent of %d bytes at %d, asked for what follows %d", ErrNoPlace, name, e.length, e.logical, start)
			}
			pieces = append(pieces, hrl.Piece{At: int64(e.logical), Extent: block.Extent{Off: int64(e.physical), Len: int64(e.length)}})
			if start = end; e.flags&fiemapLast != 0 {
				return pieces, nil
			}
		}
		if q.mapped == 0 {
			return pieces, nil
		}
	}
}
