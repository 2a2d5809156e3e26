//go:build !windows

package main

import "context"

// managed runs the agent: systemd wants nothing else of a service.
func managed(ctx context.Context, run func(context.Context) error) error { return run(ctx) }
