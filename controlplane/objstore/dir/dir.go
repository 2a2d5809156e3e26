// Package dir is an object store in a directory: one file an object.
//
// What it assumes of the file system: fsync on a file and on a directory means
// stable storage, link(2) either makes the name or fails with EEXIST, and a name
// that was synced stays. So an object is written under .tmp, synced, linked to its
// name (which cannot replace anything) and its directory synced. A crash in between
// leaves at most a file under .tmp, which Open removes when it is old.
package dir

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore"
)

const (
	tempDir = ".tmp"
	// staleTemp is far longer than any put takes, so that no live put loses its file.
	staleTemp = 24 * time.Hour
)

// Store keeps objects as files below a root directory.
type Store struct {
	root  string
	known sync.Map // directories made and synced by this process
}

// Open opens the store at root, and makes the directory if there is none. A
// read-only directory opens: only puts and deletes fail.
func Open(root string) (*Store, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, classify("open", root, "", err)
	}
	s := &Store{root: abs}
	err = os.MkdirAll(filepath.Join(abs, tempDir), 0o700)
	if err == nil {
		s.sweepTemp(time.Now())
		return s, nil
	}
	if info, statErr := os.Stat(abs); statErr == nil && info.IsDir() {
		return s, nil
	}
	return nil, classify("open", abs, "", err)
}

// sweepTemp removes what crashed puts left. A file that cannot be removed costs
// only its space, so errors do not matter here.
func (s *Store) sweepTemp(now time.Time) {
	entries, _ := os.ReadDir(filepath.Join(s.root, tempDir))
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && now.Sub(info.ModTime()) > staleTemp {
			_ = os.Remove(filepath.Join(s.root, tempDir, entry.Name()))
		}
	}
}

func (s *Store) String() string { return "directory " + s.root }

func (s *Store) path(key string) string { return filepath.Join(s.root, filepath.FromSlash(key)) }

func (s *Store) fail(op, key string, err error) error { return classify(op, s.String(), key, err) }

// Put implements objstore.Store.
func (s *Store) Put(ctx context.Context, key string, data []byte) error {
	if err := objstore.CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	path := s.path(key)
	if _, err := os.Lstat(path); err == nil {
		return s.exists(key)
	}
	temp, err := s.writeTemp(data)
	if err != nil {
		return s.fail("put", key, err)
	}
	defer os.Remove(temp)
	if err := s.makeDir(filepath.Dir(path)); err != nil {
		return s.fail("put", key, err)
	}
	if err := os.Link(temp, path); errors.Is(err, fs.ErrExist) {
		return s.exists(key)
	} else if err != nil {
		return s.fail("put", key, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		// The name may or may not survive a power cut. Take it back, so that nobody
		// builds on an object that could vanish.
		_ = os.Remove(path)
		return s.fail("put", key, err)
	}
	return nil
}

// exists reports that key is taken, after making sure that it stays so: whoever
// linked it may not have synced the directory yet, and the caller may now treat
// the object as stored.
func (s *Store) exists(key string) error {
	if err := syncDir(filepath.Dir(s.path(key))); err != nil {
		if err = s.fail("put", key, err); !errors.Is(err, objstore.ErrReadOnly) {
			return err
		}
	}
	return s.fail("put", key, fs.ErrExist)
}

func (s *Store) writeTemp(data []byte) (name string, err error) {
	f, err := os.CreateTemp(filepath.Join(s.root, tempDir), "put-*")
	if err != nil {
		return "", err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := write(f, data); err != nil {
		return "", err
	}
	return f.Name(), f.Sync()
}

// makeDir makes dir and what lies above it below the root, durably.
func (s *Store) makeDir(dir string) error {
	if _, ok := s.known.Load(dir); ok || dir == s.root {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := s.makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := syncDir(parent); err != nil {
		return err
	}
	s.known.Store(dir, true)
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Get implements objstore.Store.
func (s *Store) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := objstore.CheckKey(key); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, err := s.read(key, off, n)
	if err != nil {
		return nil, s.fail("get", key, err)
	}
	return b, nil
}

func (s *Store) read(key string, off, n int64) ([]byte, error) {
	f, err := os.Open(s.path(key))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fs.ErrNotExist
	}
	off = min(off, info.Size())
	if n < 0 || off+n > info.Size() {
		n = info.Size() - off
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil && !(errors.Is(err, io.EOF) && n == 0) {
		return nil, err
	}
	return b, nil
}

// Head implements objstore.Store.
func (s *Store) Head(ctx context.Context, key string) (objstore.Info, error) {
	if err := objstore.CheckKey(key); err != nil {
		return objstore.Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return objstore.Info{}, err
	}
	info, err := os.Stat(s.path(key))
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return objstore.Info{}, s.fail("head", key, err)
	}
	return objstore.Info{Key: key, Size: info.Size()}, nil
}

// Delete implements objstore.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := objstore.CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.Remove(s.path(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.fail("delete", key, err)
	}
	return nil
}

// List implements objstore.Store. Objects put or deleted meanwhile may or may not
// be yielded.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		dir := ""
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			dir = prefix[:i]
			if err := objstore.CheckKey(dir); err != nil {
				yield(objstore.Info{}, err)
				return
			}
		}
		if err := s.walk(ctx, dir, prefix, yield); err != nil && !errors.Is(err, errStop) {
			yield(objstore.Info{}, s.fail("list", prefix, err))
		}
	}
}

// errStop ends a walk whose consumer has enough.
var errStop = errors.New("stop")

func (s *Store) walk(ctx context.Context, dir, prefix string, yield func(objstore.Info, error) bool) error {
	entries, err := os.ReadDir(s.path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// A directory sorts as its keys do: with the slash that follows its name.
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(sortName(a), sortName(b)) })
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		key := entry.Name()
		if dir != "" {
			key = dir + "/" + key
		}
		switch {
		case strings.HasPrefix(entry.Name(), "."):
		case entry.IsDir():
			if within := key + "/"; strings.HasPrefix(within, prefix) || strings.HasPrefix(prefix, within) {
				if err := s.walk(ctx, key, prefix, yield); err != nil {
					return err
				}
			}
		case strings.HasPrefix(key, prefix):
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted since the directory was read
			}
			if err != nil {
				return err
			}
			if !yield(objstore.Info{Key: key, Size: info.Size()}, nil) {
				return errStop
			}
		}
	}
	return nil
}

func sortName(e fs.DirEntry) string {
	if e.IsDir() {
		return e.Name() + "/"
	}
	return e.Name()
}
