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

	"github.com/understudy-dr/understudy/pkg/block"
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
	for _, part := range append(partitions(d), block.Extent{Len: d.Size}) {
		for _, e := range edges(part) {
			if err := p.add(f, e); err != nil {
				return nil, fmt.Errorf("capture: looking at %s: %w", d.Path, err)
			}
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
