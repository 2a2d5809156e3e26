package dir

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/understudy-dr/understudy/controlplane/objstore"
)

// TestFullFileSystem fills a real file system of 1 MiB.
func TestFullFileSystem(t *testing.T) {
	root := t.TempDir()
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount a small file system here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(root, 0) })
	s := open(t, root)
	var err error
	for i := 0; err == nil && i < 100; i++ {
		err = s.Put(t.Context(), fmt.Sprintf("o/%d", i), make([]byte, 100<<10))
	}
	if !errors.Is(err, objstore.ErrFull) {
		t.Fatalf("filling the file system: %v", err)
	}
	if err := s.Delete(t.Context(), "o/0"); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "o/0", make([]byte, 50<<10)); err != nil {
		t.Fatalf("put into freed space: %v", err)
	}
	if err := syscall.Mount("", root, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "size=1m"); err != nil {
		t.Fatal(err)
	}
	again := open(t, root) // a read-only store opens, and reads
	if _, err := again.Get(t.Context(), "o/0", 0, 1); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{again.Put(t.Context(), "new", nil), again.Delete(t.Context(), "o/0")} {
		if !errors.Is(err, objstore.ErrReadOnly) {
			t.Fatalf("on a read-only file system: %v", err)
		}
	}
}
