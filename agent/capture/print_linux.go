package capture

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/mapper"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/hrl"
)

// TakePrint looks at a disk, past the page cache: what counts is what another boot will
// find there.
func TakePrint(d Disk) (Print, error) {
	f, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return nil, fmt.Errorf("capture: looking at %s: %w", d.Path, err)
	}
	defer func() { _ = f.Close() }()
	p := Print{}
	places := volumes(d)
	for _, part := range append(partitions(d), block.Extent{Len: d.Size}) {
		places = append(places, edges(part)...)
	}
	for _, e := range places {
		if err := p.add(f, e); err != nil {
			return nil, fmt.Errorf("capture: looking at %s: %w", d.Path, err)
		}
	}
	return p, nil
}

// edges are a partition's beginning and end.
func edges(part block.Extent) []block.Extent {
	if part.Len <= printHead+printTail {
		return []block.Extent{part}
	}
	return []block.Extent{{Off: part.Off, Len: printHead}, {Off: part.End() - printTail, Len: printTail}}
}

func (p Print) add(f *os.File, e block.Extent) error {
	b := directBuffer(e.Len)
	if _, err := f.ReadAt(b, e.Off); err != nil {
		return err
	}
	for at := int64(0); at < e.Len; at += printPiece {
		sum := sha256.Sum256(b[at:min(at+printPiece, e.Len)])
		p[e.Off+at] = hex.EncodeToString(sum[:8])
	}
	return nil
}

// directBuffer begins where a disk wants it that is read past the page cache.
func directBuffer(n int64) []byte {
	b := make([]byte, n+printPiece)
	skip := -int64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (printPiece - 1)
	return b[skip : skip+n : skip+n]
}

// partitions are where the kernel sees some on a disk.
func partitions(d Disk) (parts []block.Extent) {
	dir := strings.TrimSuffix(numberedFile(d.Major, d.Minor, ""), "/")
	found, _ := filepath.Glob(dir + "/*/partition") // the pattern is well formed
	for _, file := range found {
		start, errStart := fileInt(filepath.Join(filepath.Dir(file), "start"))
		size, errSize := fileInt(filepath.Join(filepath.Dir(file), "size"))
		if errStart == nil && errSize == nil && size > 0 {
			e := block.Extent{Off: start * block.SectorSize, Len: size * block.SectorSize}
			parts = append(parts, e.Intersect(block.Extent{Len: d.Size}))
		}
	}
	return parts
}

// volumes are where on a disk the edges lie of the mapped device that bears the root: what
// partitions show of LVM and encryption does not change when somebody mounts that. The
// initramfs does not know yet which one it will be, and looks at all; of the others the
// machine takes some down before it stops.
func volumes(d Disk) (places []block.Extent) {
	var root unix.Stat_t
	all := inInitramfs()
	if !all && unix.Stat("/", &root) != nil {
		return nil
	}
	found, _ := filepath.Glob(sysBlock + "/dm-*") // the pattern is well formed
	for _, dir := range found {
		dev, err := mapper.Number(dir)
		if err == nil && (all || dev == root.Dev) {
			places = append(places, volumeOn(d, dev)...)
		}
	}
	return places
}

// volumeOn is where on a disk the edges of a mapped device lie; nowhere if that cannot be
// told.
func volumeOn(d Disk, dev uint64) (places []block.Extent) {
	size, err := mapper.Size(dev)
	if err != nil {
		return nil
	}
	for _, e := range edges(block.Extent{Len: size}) {
		disk, there, err := mapper.ToDisk(dev, []hrl.Piece{{Extent: e}})
		if err != nil || disk != unix.Mkdev(d.Major, d.Minor) {
			continue
		}
		for _, p := range there {
			places = append(places, p.Extent)
		}
	}
	return places
}
