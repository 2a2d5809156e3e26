package recovery

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzSidecar reads whatever lies beside a target. Limit: 256 times the input (two
// letters can be an element of a list) and 64 KiB. What is taken names a disk and makes
// sense, and comes back when it is saved.
func FuzzSidecar(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `{"version":1,"vault":"v","machine":"000102030405060708090a0b0c0d0e0f","disk":"000102030405060708090a0b0c0d0e0f","name":"sda","position":{"epoch":1,"seq":2},"state":"complete","format":"raw","size":4096,"inode":9}`,
		`{"version":1,"disk":"000102030405060708090a0b0c0d0e0f","state":"writing","format":"vhd","size":4096,"done":8192,"holds":[{"epoch":1,"seq":2},null]}`,
		`{"version":1,"disk":"000102030405060708090a0b0c0d0e0f","state":"writing","format":"qcow","size":-1}`,
	} {
		f.Add([]byte(s))
	}
	target := filepath.Join(f.TempDir(), "disk.raw")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(SidecarPath(target), b, 0o600); err != nil {
			t.Fatal(err)
		}
		fuzztest.Bounded(t, 256*len(b)+64<<10, func() { _, _ = ReadSidecar(target) })
		s, err := ReadSidecar(target)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("a sidecar that is there is not: %v", err)
			}
			return
		}
		if s.Disk.IsZero() || s.Size < 0 || s.Done < 0 || s.Done > s.Size {
			t.Fatalf("%s was taken", b)
		}
		if _, err := ParseFormat(string(s.Format)); err != nil {
			t.Fatalf("%s was taken: %v", b, err)
		}
		_ = s.Origin.Check()
	})
}
