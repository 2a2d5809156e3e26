// Package mem is an object store in memory: for tests, and the simplest reading of
// what a store promises.
package mem

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/understudy-dr/understudy/controlplane/objstore"
)

// Store keeps objects in a map. Its limits may be changed at any time.
type Store struct {
	mu       sync.RWMutex
	objects  map[string][]byte
	bytes    int64
	capacity int64 // 0 is unbounded
	readOnly bool
}

// New is an empty store without limits.
func New() *Store { return &Store{objects: make(map[string][]byte)} }

// SetCapacity bounds the sum of all objects' bytes; 0 lifts the bound.
func (s *Store) SetCapacity(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.capacity = bytes
}

// SetReadOnly makes puts and deletes fail.
func (s *Store) SetReadOnly(readOnly bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readOnly = readOnly
}

// Clone is an independent copy without limits: what a crash at this moment leaves.
func (s *Store) Clone() *Store {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := &Store{objects: make(map[string][]byte, len(s.objects)), bytes: s.bytes}
	for key, data := range s.objects {
		c.objects[key] = data // immutable, so shared
	}
	return c
}

// Alter replaces an object's bytes behind the store's back, as rot would. It is
// the one way to change an object, and only for tests.
func (s *Store) Alter(key string, change func([]byte) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.objects[key]
	s.objects[key] = change(bytes.Clone(old))
	s.bytes += int64(len(s.objects[key]) - len(old))
}

func (s *Store) String() string { return "memory" }

func fail(op, key string, class error) error {
	return &objstore.Error{Op: op, Store: "memory", Key: key, Class: class}
}

// Put implements objstore.Store.
func (s *Store) Put(ctx context.Context, key string, data []byte) error {
	if err := objstore.CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readOnly {
		return fail("put", key, objstore.ErrReadOnly)
	}
	if _, ok := s.objects[key]; ok {
		return fail("put", key, objstore.ErrExists)
	}
	if s.capacity > 0 && s.bytes+int64(len(data)) > s.capacity {
		return fail("put", key, objstore.ErrFull)
	}
	s.objects[key] = bytes.Clone(data)
	s.bytes += int64(len(data))
	return nil
}

// Get implements objstore.Store.
func (s *Store) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := objstore.CheckKey(key); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	data, ok := s.objects[key]
	if !ok {
		return nil, fail("get", key, objstore.ErrNotFound)
	}
	size := int64(len(data))
	off = min(off, size)
	if n < 0 || off+n > size {
		n = size - off
	}
	return bytes.Clone(data[off : off+n]), nil
}

// Head implements objstore.Store.
func (s *Store) Head(ctx context.Context, key string) (objstore.Info, error) {
	if err := objstore.CheckKey(key); err != nil {
		return objstore.Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return objstore.Info{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	data, ok := s.objects[key]
	if !ok {
		return objstore.Info{}, fail("head", key, objstore.ErrNotFound)
	}
	return objstore.Info{Key: key, Size: int64(len(data))}, nil
}

// List implements objstore.Store. It yields the objects of one moment.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		for _, info := range s.matching(prefix) {
			if err := ctx.Err(); err != nil {
				yield(objstore.Info{}, err)
				return
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}

func (s *Store) matching(prefix string) []objstore.Info {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var infos []objstore.Info
	for key, data := range s.objects {
		if strings.HasPrefix(key, prefix) {
			infos = append(infos, objstore.Info{Key: key, Size: int64(len(data))})
		}
	}
	slices.SortFunc(infos, func(a, b objstore.Info) int { return strings.Compare(a.Key, b.Key) })
	return infos
}

// Delete implements objstore.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readOnly {
		return fail("delete", key, objstore.ErrReadOnly)
	}
	s.bytes -= int64(len(s.objects[key]))
	delete(s.objects, key)
	return nil
}
