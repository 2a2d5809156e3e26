package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/hrl"
)

// placeOf asks the file system where the file lies (FIEMAP) and adds where the file
// system's partition begins.
func placeOf(path string) (Place, error) {
	dev, pieces, err := piecesOf(path)
	if err != nil {
		return Place{}, err
	}
	set := &block.Set{}
	for _, p := range pieces {
		set.Add(p.Extent)
	}
	return Place{Path: path, Dev: dev, Extents: set.Extents()}, nil
}

// piecesOf is the file's stretches, in its own order, and where on the whole disk each
// lies.
func piecesOf(path string) (dev uint64, pieces []hrl.Piece, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, nil, fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	if err := keepsPlaces(f); err != nil {
		return 0, nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, nil, fmt.Errorf("journal: %s: %w", path, err)
	}
	dev, start, err := wholeDisk(st.Dev)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %s: %w", ErrNoPlace, path, err)
	}
	pieces, err = fiemap(f)
	if err != nil {
		return 0, nil, err
	}
	end := int64(0)
	for i, p := range pieces {
		if p.At != end {
			return 0, nil, fmt.Errorf("%w: %s has nothing on the disk at %d", ErrNoPlace, path, end)
		}
		end += p.Len
		pieces[i].Off += start
	}
	if end < st.Size {
		return 0, nil, fmt.Errorf("%w: %s has %d bytes, of which %d lie on the disk", ErrNoPlace, path, st.Size, end)
	}
	return dev, pieces, nil
}

// OnDevice are the files of a journal whose disk stage, at this path, is to be written
// when its file system is not any more: at its place on the disk.
func OnDevice(path string) (hrl.Files, error) {
	dev, pieces, err := piecesOf(path)
	if err != nil {
		return nil, err
	}
	sys, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(dev), unix.Minor(dev)))
	if err != nil {
		return nil, fmt.Errorf("journal: the disk under %s: %w", path, err)
	}
	disk := "/dev/" + strings.ReplaceAll(filepath.Base(sys), "!", "/")
	return &hrl.Device{Path: path, Disk: disk, Pieces: pieces}, nil
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

// wholeDisk gives the whole disk under a file system's device and where on it the
// device begins, in bytes.
func wholeDisk(dev uint64) (whole uint64, start int64, err error) {
	sys := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(dev), unix.Minor(dev))
	if slaves, _ := os.ReadDir(filepath.Join(sys, "slaves")); len(slaves) > 0 {
		name, _ := filepath.EvalSymlinks(sys)
		return 0, 0, fmt.Errorf("%s is stacked on %d other devices (LVM, md or encryption)", filepath.Base(name), len(slaves))
	}
	if _, err := os.Stat(filepath.Join(sys, "partition")); errors.Is(err, os.ErrNotExist) {
		_, err = os.Stat(sys)
		return dev, 0, err
	}
	sectors, err := readSys(filepath.Join(sys, "start"))
	if err != nil {
		return 0, 0, err
	}
	n, err := strconv.ParseInt(sectors, 10, 64)
	if err != nil {
		return 0, 0, err
	}
	dir, err := filepath.EvalSymlinks(sys)
	if err != nil {
		return 0, 0, err
	}
	parent, err := readSys(filepath.Join(filepath.Dir(dir), "dev"))
	if err != nil {
		return 0, 0, err
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(parent, "%d:%d", &major, &minor); err != nil {
		return 0, 0, fmt.Errorf("%q is not a device number: %w", parent, err)
	}
	return unix.Mkdev(major, minor), n * block.SectorSize, nil
}

func readSys(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
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
