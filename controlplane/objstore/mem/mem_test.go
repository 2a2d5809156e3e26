package mem

import (
	"errors"
	"testing"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/objstore/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) objstore.Store { return New() })
}

func TestLimits(t *testing.T) {
	s := New()
	s.SetCapacity(10)
	if err := s.Put(t.Context(), "a", make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "b", make([]byte, 3)); !errors.Is(err, objstore.ErrFull) {
		t.Fatalf("put beyond the capacity: %v", err)
	}
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "b", make([]byte, 10)); err != nil {
		t.Fatalf("put into freed space: %v", err)
	}
	s.SetReadOnly(true)
	if err := s.Put(t.Context(), "c", nil); !errors.Is(err, objstore.ErrReadOnly) {
		t.Fatalf("put into a read-only store: %v", err)
	}
	if err := s.Delete(t.Context(), "b"); !errors.Is(err, objstore.ErrReadOnly) {
		t.Fatalf("delete from a read-only store: %v", err)
	}
}
