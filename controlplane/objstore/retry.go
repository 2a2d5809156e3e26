package objstore

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"time"
)

// RetryPolicy says how long a passing fault is waited out. The pause starts at
// First, doubles up to Max, and is shortened at random by up to half, so that
// clients that failed together do not return together.
type RetryPolicy struct {
	Attempts int // calls in all, at least 1
	First    time.Duration
	Max      time.Duration
}

// DefaultRetry waits out faults of about ten seconds.
var DefaultRetry = RetryPolicy{Attempts: 7, First: 100 * time.Millisecond, Max: 5 * time.Second}

type retrier struct {
	Store
	policy RetryPolicy
}

// Retry repeats calls that fail with ErrTransient, and no others.
func Retry(s Store, p RetryPolicy) Store { return &retrier{Store: s, policy: p} }

// do calls fn until it succeeds, fails for good, or the attempts are used up.
func (r *retrier) do(ctx context.Context, fn func(attempt int) error) error {
	pause := r.policy.First
	for attempt := 1; ; attempt++ {
		err := fn(attempt)
		if !errors.Is(err, ErrTransient) || attempt >= r.policy.Attempts {
			return err
		}
		timer := time.NewTimer(pause - rand.N(pause/2+1))
		select {
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(ctx.Err(), err)
		case <-timer.C:
		}
		pause = min(2*pause, r.policy.Max)
	}
}

// Put repeats a put. An attempt that failed may yet have stored the object, so an
// ErrExists on a later attempt counts as success if the stored bytes are ours.
func (r *retrier) Put(ctx context.Context, key string, data []byte) error {
	return r.do(ctx, func(attempt int) error {
		err := r.Store.Put(ctx, key, data)
		if attempt == 1 || !errors.Is(err, ErrExists) {
			return err
		}
		stored, getErr := r.Store.Get(ctx, key, 0, -1)
		switch {
		case errors.Is(getErr, ErrTransient):
			return getErr
		case getErr == nil && bytes.Equal(stored, data):
			return nil
		}
		return err
	})
}

func (r *retrier) Get(ctx context.Context, key string, off, n int64) (b []byte, err error) {
	err = r.do(ctx, func(int) error {
		b, err = r.Store.Get(ctx, key, off, n)
		return err
	})
	return b, err
}

func (r *retrier) Head(ctx context.Context, key string) (info Info, err error) {
	err = r.do(ctx, func(int) error {
		info, err = r.Store.Head(ctx, key)
		return err
	})
	return info, err
}

func (r *retrier) Delete(ctx context.Context, key string) error {
	return r.do(ctx, func(int) error { return r.Store.Delete(ctx, key) })
}

// List repeats a listing that breaks, and skips what it has already yielded.
func (r *retrier) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		last, stopped := "", false
		err := r.do(ctx, func(int) error {
			for info, err := range r.Store.List(ctx, prefix) {
				if err != nil {
					return err
				}
				if info.Key <= last {
					continue
				}
				last = info.Key
				if !yield(info, nil) {
					stopped = true
					return nil
				}
			}
			return nil
		})
		if err != nil && !stopped {
			yield(Info{}, err)
		}
	}
}
