package lab

import (
	"errors"
	"os"
	"testing"

	"github.com/understudy-dr/understudy/pkg/block"
)

// TestFreeIsWhatNoFileHas: what the file system's tool calls free holds no byte of a
// file, and what a removed file had is free.
func TestFreeIsWhatNoFileHas(t *testing.T) {
	for _, fs := range []string{Ext4, XFS} {
		t.Run(fs, func(t *testing.T) {
			l := open(t)
			d, err := l.NewDisk(t.Context(), fs, 384<<20)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(d.Format(t.Context(), fs), d.MountUp(t.Context(), false), Seed(d, 8), d.Sieve(1000), d.Unmount(t.Context())); err != nil {
				t.Fatal(err)
			}
			free, err := d.Free(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := free.Bytes(); got < 200<<20 || got > 376<<20 {
				t.Errorf("%d bytes are free, want most of the disk but for 8 MiB of files", got)
			}
			disk, err := os.ReadFile(d.Device)
			if err != nil {
				t.Fatal(err)
			}
			remains, stays := 0, 0
			for off := int64(0); off < int64(len(disk)); off += 1024 {
				if block.IsZero(disk[off : off+sieved]) {
					continue
				}
				n, err := valueOf(disk[off:off+sieved], seedName(fs))
				if err != nil {
					continue
				}
				stayed := holds(int(n) - 1)
				if free.Overlaps(block.Extent{Off: off, Len: sieved}) == stayed {
					t.Fatalf("file %d at %d stays %t, and is free %t", n-1, off, stayed, !stayed)
				}
				if stayed {
					stays++
				} else {
					remains++
				}
			}
			if remains < 400 || stays < 400 {
				t.Errorf("found %d removed files and %d others", remains, stays)
			}
		})
	}
}

// TestSameButForgivesZerosInFreeSpaceOnly.
func TestSameButForgivesZerosInFreeSpaceOnly(t *testing.T) {
	l := open(t)
	a, b := l.Path("source"), l.Path("replica")
	source := make([]byte, 1<<20)
	for i := range source {
		source[i] = 7
	}
	free := block.NewSet(block.Extent{Off: 8192, Len: 1024})
	compare := func(change func(replica []byte)) error {
		replica := append([]byte(nil), source...)
		change(replica)
		if err := errors.Join(os.WriteFile(a, source, 0o600), os.WriteFile(b, replica, 0o600)); err != nil {
			t.Fatal(err)
		}
		return SameBut(a, b, free)
	}
	if err := compare(func(r []byte) { copy(r[8192:9216], make([]byte, 1024)) }); err != nil {
		t.Errorf("free space left out: %v", err)
	}
	for what, change := range map[string]func([]byte){
		"zeros beside free space":      func(r []byte) { copy(r[8192:9728], make([]byte, 1536)) },
		"something else in free space": func(r []byte) { r[8200] = 9 },
		"something else elsewhere":     func(r []byte) { r[1<<20-1] = 9 },
	} {
		if compare(change) == nil {
			t.Errorf("%s is taken for the same", what)
		}
	}
}
