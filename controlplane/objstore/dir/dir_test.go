package dir

import (
	"errors"
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
