package dir

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// directAlign is what every disk takes for the place, length and address of direct I/O.
const directAlign = 4096

// write fills a new file, past the page cache as far as whole pages go: an object is
// written once and seldom read soon, and copying it into fresh pages cost more than
// encrypting it (1.4 CPU-s/GiB on a virtual machine, of 4.1 for the whole relay).
// Where the file system or the address does not allow it, the page cache serves.
func write(f *os.File, data []byte) error {
	if whole := len(data) &^ (directAlign - 1); whole > 0 && uintptr(unsafe.Pointer(&data[0]))%directAlign == 0 {
		n, err := writeDirect(f, data[:whole])
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
		data = data[n:]
	}
	_, err := f.Write(data)
	return err
}

// writeDirect writes b with O_DIRECT and takes the flag away again. EINVAL says that
// the file system does not know it, or wants a larger alignment.
func writeDirect(f *os.File, b []byte) (n int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	flag := func(bits int) error {
		var failed error
		err := raw.Control(func(fd uintptr) { _, failed = unix.FcntlInt(fd, unix.F_SETFL, bits) })
		return errors.Join(err, failed)
	}
	if err := flag(unix.O_DIRECT); err != nil {
		return 0, err
	}
	n, err = f.Write(b)
	return n, errors.Join(err, flag(0))
}
