package dir

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/objstore/storetest"
)

func open(t testing.TB, root string) *Store {
	t.Helper()
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) objstore.Store { return open(t, t.TempDir()) })
}

// TestPutLeavesNothingBehind: neither a put that won, nor one that lost, nor one that
// was cut off a day ago leaves a temporary file.
func TestPutLeavesNothingBehind(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	for range 2 {
		_ = s.Put(t.Context(), "a/b", []byte("x"))
	}
	stale, fresh := filepath.Join(root, tempDir, "put-1"), filepath.Join(root, tempDir, "put-2")
	for _, path := range []string{stale, fresh} {
		if err := os.WriteFile(path, []byte("torn"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-2 * staleTemp)
	if err := os.Chtimes(stale, old, old); err != nil {
		t.Fatal(err)
	}
	open(t, root)
	entries, err := os.ReadDir(filepath.Join(root, tempDir))
	if err != nil || len(entries) != 1 || entries[0].Name() != "put-2" {
		t.Fatalf("left under %s: %v, %v", tempDir, entries, err)
	}
	for info, err := range s.List(t.Context(), "") {
		if err != nil || info.Key != "a/b" {
			t.Fatalf("listed %+v, %v", info, err)
		}
	}
}

func TestErrorsAreClassified(t *testing.T) {
	for cause, class := range map[error]error{
		syscall.ENOSPC: objstore.ErrFull, syscall.EDQUOT: objstore.ErrFull,
		syscall.EROFS: objstore.ErrReadOnly, syscall.EACCES: objstore.ErrReadOnly, syscall.EPERM: objstore.ErrReadOnly,
		syscall.EEXIST: objstore.ErrExists, syscall.ENOENT: objstore.ErrNotFound,
		syscall.ESTALE: objstore.ErrTransient, syscall.EMFILE: objstore.ErrTransient, syscall.EINTR: objstore.ErrTransient,
	} {
		err := classify("put", "directory /v", "k", &fs.PathError{Op: "write", Path: "/v/k", Err: cause})
		if !errors.Is(err, class) || !errors.Is(err, cause) {
			t.Errorf("%v became %v, want the class %v", cause, err, class)
		}
		if class == objstore.ErrFull && !strings.Contains(err.Error(), "free space") {
			t.Errorf("no remedy in %q", err)
		}
	}
	if err := classify("get", "directory /v", "k", syscall.EIO); errors.Is(err, objstore.ErrTransient) || !errors.Is(err, syscall.EIO) {
		t.Errorf("EIO became %v: a disk that fails is not a passing fault", err)
	}
}

// TestEveryLength holds puts around the page's edges, at addresses that direct I/O
// takes and at one that it does not, against what is read back.
func TestEveryLength(t *testing.T) {
	s := open(t, t.TempDir())
	memory := make([]byte, 64<<10) // large enough to begin on a page
	rand.Read(memory)
	for _, from := range []int{0, 1} {
		for _, n := range []int{0, 1, 4095, 4096, 4097, 8192, 3*4096 - 1, 3 * 4096} {
			key, data := fmt.Sprintf("from%d/n%d", from, n), memory[from:from+n]
			if err := s.Put(t.Context(), key, data); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Get(t.Context(), key, 0, -1); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes at an odd address (%v): %d came back, %v", n, from == 1, len(got), err)
			}
		}
	}
}
