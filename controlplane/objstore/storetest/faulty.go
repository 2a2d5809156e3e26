package storetest

import (
	"context"
	"iter"
	"slices"
	"sync"

	"github.com/understudy-dr/understudy/controlplane/objstore"
)

// Call is a call on a store that a Rule judges.
type Call struct {
	Op  string // put, get, head, list, delete
	Key string // or the prefix of a list
	N   int    // calls before it
}

// Fault is how a call goes wrong.
type Fault struct {
	Err   error // what the caller gets
	After bool  // the call takes effect first: its outcome is unknown to the caller
	Torn  int   // a get returns that many bytes less, and no error
}

// Rule decides about each call; the zero Fault lets it pass.
type Rule func(Call) Fault

// Faulty is a store that goes wrong by rule, and may list late.
type Faulty struct {
	store objstore.Store

	mu    sync.Mutex
	rule  Rule
	calls int
	late  int
	fresh []string // the newest keys put, the oldest first
}

// NewFaulty wraps a store; without a rule nothing goes wrong.
func NewFaulty(s objstore.Store) *Faulty { return &Faulty{store: s} }

// SetRule replaces the rule; nil lets everything pass.
func (f *Faulty) SetRule(r Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rule = r
}

// SetLate hides the newest n objects put from listings, as an eventually consistent
// store would for a while.
func (f *Faulty) SetLate(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.late = n
}

// Calls is the number of calls so far.
func (f *Faulty) Calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

func (f *Faulty) judge(op, key string) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	call := Call{Op: op, Key: key, N: f.calls}
	f.calls++
	if f.rule == nil {
		return Fault{}
	}
	return f.rule(call)
}

// run makes a call unless its fault comes before it.
func (f *Faulty) run(op, key string, call func() error) error {
	fault := f.judge(op, key)
	if fault.Err != nil && !fault.After {
		return fault.Err
	}
	if err := call(); err != nil {
		return err
	}
	return fault.Err
}

func (f *Faulty) String() string { return "faulty " + f.store.String() }

// Put implements objstore.Store.
func (f *Faulty) Put(ctx context.Context, key string, data []byte) error {
	return f.run("put", key, func() error {
		if err := f.store.Put(ctx, key, data); err != nil {
			return err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.fresh = append(f.fresh, key)
		return nil
	})
}

// Get implements objstore.Store.
func (f *Faulty) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	fault := f.judge("get", key)
	if fault.Err != nil {
		return nil, fault.Err
	}
	b, err := f.store.Get(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	return b[:max(0, len(b)-fault.Torn)], nil
}

// Head implements objstore.Store.
func (f *Faulty) Head(ctx context.Context, key string) (info objstore.Info, err error) {
	err = f.run("head", key, func() error {
		info, err = f.store.Head(ctx, key)
		return err
	})
	return info, err
}

// Delete implements objstore.Store.
func (f *Faulty) Delete(ctx context.Context, key string) error {
	return f.run("delete", key, func() error { return f.store.Delete(ctx, key) })
}

// List implements objstore.Store. A fault comes after half of the objects.
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		fault := f.judge("list", prefix)
		infos, err := f.visible(ctx, prefix)
		if fault.Err != nil {
			infos, err = infos[:len(infos)/2], fault.Err
		}
		for _, info := range infos {
			if !yield(info, nil) {
				return
			}
		}
		if err != nil {
			yield(objstore.Info{}, err)
		}
	}
}

// visible lists what is not late.
func (f *Faulty) visible(ctx context.Context, prefix string) ([]objstore.Info, error) {
	f.mu.Lock()
	hidden := slices.Clone(f.fresh[max(0, len(f.fresh)-f.late):])
	f.mu.Unlock()
	var infos []objstore.Info
	for info, err := range f.store.List(ctx, prefix) {
		if err != nil {
			return infos, err
		}
		if !slices.Contains(hidden, info.Key) {
			infos = append(infos, info)
		}
	}
	return infos, nil
}
