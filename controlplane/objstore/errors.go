package objstore

import (
	"errors"
	"fmt"
)

// The classes of a store's errors. A caller decides by class, never by message.
var (
	ErrExists    = errors.New("object exists")
	ErrNotFound  = errors.New("no such object")
	ErrFull      = errors.New("store is full")
	ErrReadOnly  = errors.New("store is read-only")
	ErrTransient = errors.New("passing fault") // the same call may succeed later
	ErrBadKey    = errors.New("not a valid key")
)

// Error is a failed call on a store.
type Error struct {
	Op     string // put, get, head, list, delete
	Store  string // where the store is
	Key    string // object, or prefix of a list
	Class  error  // one of the classes above, or nil for a fault that none describes
	Remedy string // what the operator can do; may be empty
	Err    error  // the cause; may be nil
}

func (e *Error) Error() string {
	msg := fmt.Sprintf("objstore: %s %q", e.Op, e.Key)
	if e.Store != "" {
		msg += " in " + e.Store
	}
	if e.Class != nil {
		msg += ": " + e.Class.Error()
	}
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	if e.Remedy != "" {
		msg += " (" + e.Remedy + ")"
	}
	return msg
}

// Unwrap lets errors.Is see both the class and the cause.
func (e *Error) Unwrap() []error {
	var errs []error
	if e.Class != nil {
		errs = append(errs, e.Class)
	}
	if e.Err != nil {
		errs = append(errs, e.Err)
	}
	return errs
}
