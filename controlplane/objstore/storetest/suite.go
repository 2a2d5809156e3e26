// Package storetest holds every store to what objstore.Store promises, and has a
// store that breaks by rule.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/understudy-dr/understudy/controlplane/objstore"
)

// Run holds a kind of store to the suite. open makes an empty store; it is called once
// for each test.
func Run(t *testing.T, open func(t *testing.T) objstore.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, objstore.Store)
	}{
		{"PutIsNotAReplacement", putIsNotAReplacement},
		{"RangedGets", rangedGets},
		{"ListsInKeyOrder", listsInKeyOrder},
		{"ListEndsWhenAsked", listEndsWhenAsked},
		{"DeleteIsRepeatable", deleteIsRepeatable},
		{"AbsentObjects", absentObjects},
		{"BadKeys", badKeys},
		{"OnlyOnePutWins", onlyOnePutWins},
		{"CancelledContext", cancelledContext},
		{"CallersKeepTheirBuffers", callersKeepTheirBuffers},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

func put(t *testing.T, s objstore.Store, key, data string) {
	t.Helper()
	if err := s.Put(t.Context(), key, []byte(data)); err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
}

func want(t *testing.T, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Fatalf("got %v, want %v", err, class)
	}
}

func putIsNotAReplacement(t *testing.T, s objstore.Store) {
	put(t, s, "a/b", "one")
	want(t, s.Put(t.Context(), "a/b", []byte("two")), objstore.ErrExists)
	if got, err := s.Get(t.Context(), "a/b", 0, -1); err != nil || string(got) != "one" {
		t.Fatalf("after a refused put: %q, %v", got, err)
	}
	put(t, s, "empty", "")
	if info, err := s.Head(t.Context(), "empty"); err != nil || info.Size != 0 {
		t.Fatalf("empty object: %+v, %v", info, err)
	}
}

func rangedGets(t *testing.T, s objstore.Store) {
	data := bytes.Repeat([]byte("0123456789"), 1000)
	put(t, s, "k", string(data))
	size := int64(len(data))
	for _, c := range []struct{ off, n int64 }{
		{0, size}, {0, -1}, {0, 0}, {0, 1}, {17, 4096}, {size - 1, 1}, {size - 1, 10}, {size, 1}, {size + 5, -1}, {3, -1}, {5, size},
	} {
		from := min(c.off, size)
		to := min(from+c.n, size)
		if c.n < 0 {
			to = size
		}
		got, err := s.Get(t.Context(), "k", c.off, c.n)
		if err != nil || !bytes.Equal(got, data[from:to]) {
			t.Errorf("get [%d+%d): %d bytes, %v", c.off, c.n, len(got), err)
		}
	}
	if info, err := s.Head(t.Context(), "k"); err != nil || info != (objstore.Info{Key: "k", Size: size}) {
		t.Errorf("head: %+v, %v", info, err)
	}
}

func keysOf(t *testing.T, s objstore.Store, prefix string) (keys []string) {
	t.Helper()
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("list %q: %v", prefix, err)
		}
		if info.Size != int64(len(info.Key)) {
			t.Errorf("list says %q has %d bytes", info.Key, info.Size)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func listsInKeyOrder(t *testing.T, s objstore.Store) {
	// Separators sort between '.' and the digits: a walk by directory gets this wrong.
	keys := []string{"a", "a-b", "a.b", "a/b", "a/b/c", "a/c", "a0", "ab/0001", "ab/0002", "ab/001", "b", "keys/x.json"}
	for _, i := range []int{5, 2, 8, 0, 11, 7, 3, 9, 1, 6, 10} {
		if key := keys[i]; key != "a" && key != "a/b" {
			put(t, s, key, key)
		}
	}
	put(t, s, "a/b/c", "a/b/c")
	keys = slices.DeleteFunc(keys, func(k string) bool { return k == "a" || k == "a/b" })
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/b/", "ab/", "ab/00", "ab/0001", "none/", "keys/"} {
		var expect []string
		for _, k := range keys {
			if len(k) >= len(prefix) && k[:len(prefix)] == prefix {
				expect = append(expect, k)
			}
		}
		if got := keysOf(t, s, prefix); !slices.Equal(got, expect) {
			t.Errorf("list %q: %q, want %q", prefix, got, expect)
		}
	}
}

func listEndsWhenAsked(t *testing.T, s objstore.Store) {
	for i := range 10 {
		put(t, s, fmt.Sprintf("n/%d", i), "")
	}
	n := 0
	for _, err := range s.List(t.Context(), "n/") {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 3 {
			break
		}
	}
	if n != 3 {
		t.Fatalf("%d objects before the end, want 3", n)
	}
}

func deleteIsRepeatable(t *testing.T, s objstore.Store) {
	put(t, s, "x/y", "1")
	for range 2 {
		if err := s.Delete(t.Context(), "x/y"); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Head(t.Context(), "x/y")
	want(t, err, objstore.ErrNotFound)
	put(t, s, "x/y", "2") // the name is free again
}

func absentObjects(t *testing.T, s objstore.Store) {
	put(t, s, "d/o", "")
	for _, key := range []string{"none", "d", "d/none", "d/o/p"} {
		_, err := s.Get(t.Context(), key, 0, -1)
		want(t, err, objstore.ErrNotFound)
		_, err = s.Head(t.Context(), key)
		want(t, err, objstore.ErrNotFound)
	}
}

func badKeys(t *testing.T, s objstore.Store) {
	for _, key := range []string{"", "/a", "a/", "a//b", "../a", "a/../b", ".tmp/a", "A", "a b", "a\x00b", string(make([]byte, objstore.MaxKeyLen+1))} {
		want(t, s.Put(t.Context(), key, nil), objstore.ErrBadKey)
		_, getErr := s.Get(t.Context(), key, 0, -1)
		want(t, getErr, objstore.ErrBadKey)
		_, headErr := s.Head(t.Context(), key)
		want(t, headErr, objstore.ErrBadKey)
	}
}

func onlyOnePutWins(t *testing.T, s objstore.Store) {
	const writers = 8
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() { errs[i] = s.Put(t.Context(), "race/lease", fmt.Appendf(nil, "writer %d", i)) })
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner < 0:
			winner = i
		case err == nil:
			t.Fatalf("writers %d and %d both won", winner, i)
		default:
			want(t, err, objstore.ErrExists)
		}
	}
	got, err := s.Get(t.Context(), "race/lease", 0, -1)
	if err != nil || winner < 0 || string(got) != fmt.Sprintf("writer %d", winner) {
		t.Fatalf("writer %d won, the object says %q, %v", winner, got, err)
	}
}

func cancelledContext(t *testing.T, s objstore.Store) {
	put(t, s, "k", "v")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := s.Get(ctx, "k", 0, -1)
	_, headErr := s.Head(ctx, "k")
	var listErr error
	for _, listErr = range s.List(ctx, "") {
	}
	for _, err := range []error{s.Put(ctx, "l", nil), getErr, headErr, listErr, s.Delete(ctx, "k")} {
		want(t, err, context.Canceled)
	}
	if _, err := s.Head(t.Context(), "l"); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatalf("a cancelled put left something: %v", err)
	}
}

func callersKeepTheirBuffers(t *testing.T, s objstore.Store) {
	data := []byte("mine")
	if err := s.Put(t.Context(), "k", data); err != nil {
		t.Fatal(err)
	}
	copy(data, "XXXX")
	got, err := s.Get(t.Context(), "k", 0, -1)
	if err != nil || string(got) != "mine" {
		t.Fatalf("%q, %v", got, err)
	}
	copy(got, "YYYY")
	if again, err := s.Get(t.Context(), "k", 0, -1); err != nil || string(again) != "mine" {
		t.Fatalf("%q, %v", again, err)
	}
}
