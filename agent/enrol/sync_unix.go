//go:build unix

package enrol

import (
	"errors"
	"os"
)

// syncDir makes a rename survive a power cut.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
