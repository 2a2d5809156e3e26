//go:build !linux

package consistency

import (
	"context"
	"io"
)

// Run implements nothing here: the point is crash-consistent.
func (q *Quiescer) Run(context.Context, Job, Mark) Outcome { return Outcome{Problem: ErrUnsupported} }

// Recover finds nothing frozen here.
func (q *Quiescer) Recover() ([]string, error) { return nil, nil }

// Freeze is the freezer's process.
func Freeze(io.Reader, io.Writer) error { return ErrUnsupported }
