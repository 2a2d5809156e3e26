//go:build !linux

package capture

import (
	"context"
	"fmt"
	"runtime"
)

func unsupported() error {
	return fmt.Errorf("%w: capture by eBPF needs Linux, this is %s", ErrUnsupported, runtime.GOOS)
}

// Open is not supported on this system.
func Open(Options) (Source, Resume, error) { return nil, Resume{}, unsupported() }

// Probe says that this system is not supported.
func Probe(context.Context) Report {
	return Report{System: runtime.GOOS, Answer: No, Checks: []Check{{Feature: "capture", Answer: No, Detail: unsupported().Error(), Remedy: "scan by checksums"}}}
}

// Discover is not supported on this system.
func Discover(context.Context) ([]Disk, error) { return nil, unsupported() }

// Resolve is not supported on this system.
func Resolve(string) (Disk, error) { return Disk{}, unsupported() }

// Early is not supported on this system.
func Early(context.Context, Options) (Origin, error) { return Origin{}, unsupported() }

// TakePrint is not supported on this system.
func TakePrint(Disk) (Print, error) { return nil, unsupported() }
