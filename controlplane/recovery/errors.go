package recovery

import (
	"errors"
	"fmt"
)

// What can stand in a target's way. They arrive inside a TargetError.
var (
	ErrForeign    = errors.New("there is something here that Understudy did not make")
	ErrOtherDisk  = errors.New("the target belongs to another disk")
	ErrOtherPoint = errors.New("the target holds another point")
	ErrAltered    = errors.New("the target has been written to since it was made")
	ErrBusy       = errors.New("the target is being written by another process")
	ErrSpace      = errors.New("not enough free space")
	ErrNoTarget   = errors.New("there is no target here")
)

// TargetError is a failure of one target, with what the operator can do about it.
type TargetError struct {
	Path   string
	Disk   string // stable name; empty where it is not known
	Err    error
	Remedy string
}

func (e *TargetError) Error() string {
	s := "recovery: target " + e.Path
	if e.Disk != "" {
		s += " of disk " + e.Disk
	}
	s += ": " + e.Err.Error()
	if e.Remedy != "" {
		s += ": " + e.Remedy
	}
	return s
}

func (e *TargetError) Unwrap() error { return e.Err }

// refuse is the error of a target that must not be touched.
func refuse(path string, o Origin, err error, remedy string, args ...any) error {
	return &TargetError{Path: path, Disk: o.Name, Err: err, Remedy: fmt.Sprintf(remedy, args...)}
}

// failed wraps a plain failure of work on a target, unless it names one already.
func failed(path string, o Origin, err error) error {
	var already *TargetError
	if err == nil || errors.As(err, &already) {
		return err
	}
	return &TargetError{Path: path, Disk: o.Name, Err: err}
}
