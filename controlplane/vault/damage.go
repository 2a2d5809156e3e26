package vault

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/pkg/block"
)

// isPassing reports errors that say nothing about the object that was asked for.
func isPassing(err error) bool {
	return errors.Is(err, objstore.ErrTransient) || errors.Is(err, objstore.ErrReadOnly) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// readError names the object behind an error of reading it, unless the error is a
// passing one.
func (f *fetcher) readError(key string, disk block.DiskID, err error) error {
	var known *DamageError
	if err == nil || isPassing(err) || errors.As(err, &known) {
		return err
	}
	f.v.metrics.damagedReads.Inc()
	return &DamageError{Machine: f.id, Object: key, Affected: affectedBy(f.id, key) + " where they show that part of disk " + disk.String(), Err: err}
}

// affectedBy says which recovery points need an object, as far as its name tells.
func affectedBy(id block.MachineID, key string) string {
	kind, _, _ := strings.Cut(strings.TrimPrefix(key, machinePrefix(id)), "/")
	switch kind {
	case "log":
		if n, err := parseNumbers(key, logPrefix(id), 1); err == nil {
			return fmt.Sprintf("recovery points from sequence %d on", n[0])
		}
	case "base":
		if n, err := parseNumbers(key, basePrefix(id), 2); err == nil {
			return fmt.Sprintf("recovery points of epoch %d and later", n[0])
		}
	}
	return "every recovery point from its run on"
}
