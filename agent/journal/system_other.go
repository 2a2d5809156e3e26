//go:build !linux

package journal

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/understudy-dr/understudy/pkg/hrl"
)

// thisBoot: elsewhere than on Linux nothing is kept over a restart yet.
func thisBoot() bootID { return randomBoot() }

// DefaultMemoryDir is where the memory stage's file lies: a plain file here, since
// there is no memory file system to count on.
func DefaultMemoryDir() string { return filepath.Join(os.TempDir(), "understudy-agent") }

func checkMemoryDir(string, bool) error { return nil }

func placeOf(path string) (Place, error) {
	return Place{}, fmt.Errorf("%w: %s: not on this system", ErrNoPlace, path)
}

// OnDevice is not possible on this system.
func OnDevice(path string) (hrl.Files, error) {
	return nil, fmt.Errorf("%w: %s: not on this system", ErrNoPlace, path)
}

// DiskFor is not known on this system.
func DiskFor(path string) (string, error) {
	return "", fmt.Errorf("%w: %s: not on this system", ErrNoPlace, path)
}
