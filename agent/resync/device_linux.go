package resync

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
)

// linuxDevice is a block device (or, in tests, a file) read with O_DIRECT. There is no
// falling back to buffered reads: the page cache of the device does not know what a
// mounted file system wrote past it.
type linuxDevice struct {
	fd      int
	sysfs   string // directory of the device, empty for a file
	between func() // see mount
}

func openDevice(t Target) (Device, error) {
	fd, err := unix.Open(t.Path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	d := &linuxDevice{fd: fd}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		d.sysfs = fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	return d, nil
}

func (d *linuxDevice) Close() error { return unix.Close(d.fd) }

func (d *linuxDevice) Size() (int64, error) { return unix.Seek(d.fd, 0, io.SeekEnd) }

func (d *linuxDevice) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		got, err := unix.Pread(d.fd, p[n:], off+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		// A read that ended inside a block cannot be continued: O_DIRECT wants alignment.
		if got == 0 || got%block.SectorSize != 0 {
			return n, io.EOF
		}
		n += got
	}
	return n, nil
}

// Activity reads the kernel's counters of the whole device: requests, merges, sectors
// and milliseconds, for reads and then for writes.
func (d *linuxDevice) Activity() (Activity, error) {
	if d.sysfs == "" {
		return Activity{}, errors.New("a file has no counters")
	}
	raw, err := os.ReadFile(filepath.Join(d.sysfs, "stat"))
	if err != nil {
		return Activity{}, err
	}
	var v [8]int64
	fields := strings.Fields(string(raw))
	if len(fields) < len(v) {
		return Activity{}, fmt.Errorf("counters have %d fields, not %d or more", len(fields), len(v))
	}
	for i := range v {
		if v[i], err = strconv.ParseInt(fields[i], 10, 64); err != nil {
			return Activity{}, fmt.Errorf("counters: %w", err)
		}
	}
	return Activity{
		Reads: uint64(v[0]), ReadBytes: v[2] * block.SectorSize, ReadWait: time.Duration(v[3]) * time.Millisecond,
		Writes: uint64(v[4]), WriteWait: time.Duration(v[7]) * time.Millisecond,
	}, nil
}
