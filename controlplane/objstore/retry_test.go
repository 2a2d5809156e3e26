package objstore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/controlplane/objstore/storetest"
)

var (
	policy    = objstore.RetryPolicy{Attempts: 4, First: time.Second, Max: 3 * time.Second}
	transient = &objstore.Error{Op: "test", Class: objstore.ErrTransient}
)

func TestRetryConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) objstore.Store { return objstore.Retry(mem.New(), policy) })
}

// failing makes the first n calls fail with err.
func failing(n int, err error, after bool) (*storetest.Faulty, objstore.Store) {
	f := storetest.NewFaulty(mem.New())
	f.SetRule(func(c storetest.Call) storetest.Fault {
		if c.N < n {
			return storetest.Fault{Err: err, After: after}
		}
		return storetest.Fault{}
	})
	return f, objstore.Retry(f, policy)
}

func TestRetryByClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := failing(3, transient, false)
		start := time.Now()
		if err := s.Put(t.Context(), "k", []byte("v")); err != nil || f.Calls() != 4 {
			t.Fatalf("%d calls, %v", f.Calls(), err)
		}
		if waited := time.Since(start); waited < 3*time.Second || waited > 6*time.Second {
			t.Fatalf("waited %v for three faults, want the half to the whole of 1+2+3 s", waited)
		}
		f, s = failing(4, transient, false)
		if err := s.Put(t.Context(), "k", nil); !errors.Is(err, objstore.ErrTransient) || f.Calls() != 4 {
			t.Fatalf("%d calls, %v", f.Calls(), err)
		}
		for _, class := range []error{objstore.ErrFull, objstore.ErrReadOnly, objstore.ErrNotFound, errors.New("unknown")} {
			f, s = failing(1, &objstore.Error{Class: class, Err: class}, false)
			if err := s.Put(t.Context(), "k", nil); !errors.Is(err, class) || f.Calls() != 1 {
				t.Fatalf("%v was tried %d times: %v", class, f.Calls(), err)
			}
		}
	})
}

// TestRetryOfAPutThatHappened: the store did it and the answer was lost.
func TestRetryOfAPutThatHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := failing(1, transient, true)
		if err := s.Put(t.Context(), "k", []byte("mine")); err != nil {
			t.Fatalf("our own object: %v", err)
		}
		m := mem.New()
		f := storetest.NewFaulty(m)
		f.SetRule(func(c storetest.Call) storetest.Fault {
			if c.N == 0 { // another writer comes in between
				_ = m.Put(context.Background(), "k", []byte("theirs"))
				return storetest.Fault{Err: transient}
			}
			return storetest.Fault{}
		})
		if err := objstore.Retry(f, policy).Put(t.Context(), "k", []byte("mine")); !errors.Is(err, objstore.ErrExists) {
			t.Fatalf("another's object: %v", err)
		}
	})
}

func TestRetryOfABrokenListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := failing(0, nil, false)
		for i := range 10 {
			if err := s.Put(t.Context(), fmt.Sprintf("k%d", i), nil); err != nil {
				t.Fatal(err)
			}
		}
		f.SetRule(func(c storetest.Call) storetest.Fault {
			if c.N < 12 {
				return storetest.Fault{Err: transient} // after half of the objects
			}
			return storetest.Fault{}
		})
		n := 0
		for info, err := range s.List(t.Context(), "") {
			if err != nil || info.Key != fmt.Sprintf("k%d", n) {
				t.Fatalf("object %d: %+v, %v", n, info, err)
			}
			n++
		}
		if n != 10 {
			t.Fatalf("listed %d of 10", n)
		}
	})
}

func TestRetryEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := failing(100, transient, false)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/4)
		defer cancel()
		if err := s.Delete(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, objstore.ErrTransient) {
			t.Fatal(err)
		}
	})
}
