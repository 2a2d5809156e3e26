//go:build !linux

package resync

import (
	"context"
	"errors"
	"os"

	"github.com/understudy-dr/understudy/pkg/block"
)

// plainDevice reads a disk whole: on this system nothing is known of its free space
// or its load yet.
type plainDevice struct {
	*os.File
	size int64
}

func openDevice(t Target) (Device, error) {
	f, err := os.Open(t.Path)
	if err != nil {
		return nil, err
	}
	return plainDevice{File: f, size: t.Size}, nil
}

func (d plainDevice) Size() (int64, error)        { return d.size, nil }
func (d plainDevice) Layout() (string, error)     { return wholeDisk, nil }
func (d plainDevice) Sync(context.Context) error  { return errors.ErrUnsupported }
func (d plainDevice) Activity() (Activity, error) { return Activity{}, errors.ErrUnsupported }
func (d plainDevice) Usage(context.Context) (Usage, error) {
	return Usage{Free: block.NewSet(), Layout: wholeDisk}, nil
}
