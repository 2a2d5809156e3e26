//go:build !linux

package dir

import "os"

func write(f *os.File, data []byte) error {
	_, err := f.Write(data)
	return err
}
