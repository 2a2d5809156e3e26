//go:build !linux

package mapper

import "errors"

// Table is not possible on this system.
func Table(uint64) ([]Target, error) { return nil, errors.New("device-mapper: not on this system") }
