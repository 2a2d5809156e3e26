package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// slowFile is a file whose writes take as long as the test wants: a FUSE file
// system that consists of it alone.
type slowFile struct {
	path string
	dev  int
	data []byte

	mu      sync.Mutex
	gate    chan struct{} // closed: writes pass
	arrived chan struct{} // one for each write that waits at the gate
}

// slowFiles counts them. Their devices have numbers from slowFrom on.
var slowFiles atomic.Int64

const slowFrom = 512

func newSlowFile(t *testing.T, size int) *slowFile {
	t.Helper()
	needRoot(t)
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("a disk with slow writes needs FUSE: %v", err)
	}
	// A number of its own, for good: what still serves for the test before would read the
	// requests of this one from a number that is used again.
	own, err := unix.FcntlInt(uintptr(dev), unix.F_DUPFD_CLOEXEC, slowFrom+int(slowFiles.Add(1)))
	must(t, errors.Join(err, unix.Close(dev)))
	dev = own
	f := &slowFile{path: filepath.Join(t.TempDir(), "slow.img"), dev: dev, data: make([]byte, size), gate: make(chan struct{}), arrived: make(chan struct{}, 1024)}
	close(f.gate)
	must(t, os.WriteFile(f.path, nil, 0o600))
	must(t, unix.Mount("slow", f.path, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=100000,user_id=0,group_id=0", dev)))
	go f.serve()
	t.Cleanup(func() {
		f.open()
		_ = unix.Unmount(f.path, unix.MNT_DETACH)
		_ = unix.Close(dev)
	})
	return f
}

// close makes writes wait; open lets them pass.
func (f *slowFile) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gate = make(chan struct{})
}

func (f *slowFile) open() {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.gate:
	default:
		close(f.gate)
	}
}

// Operations of the FUSE protocol that matter here.
const (
	fuseForget  = 2
	fuseGetattr = 3
	fuseOpen    = 14
	fuseRead    = 15
	fuseWrite   = 16
	fuseRelease = 18
	fuseFsync   = 20
	fuseFlush   = 25
	fuseInit    = 26
	fuseHeader  = 40
)

func (f *slowFile) serve() {
	for {
		buf := make([]byte, 1<<20+4096)
		n, err := unix.Read(f.dev, buf)
		if err == unix.EINTR || err == unix.ENOENT {
			continue
		}
		if err != nil || n < fuseHeader { // nothing at all, where it is unmounted
			return
		}
		go f.answer(buf[:n])
	}
}

func (f *slowFile) answer(req []byte) {
	le := binary.LittleEndian
	op, unique, body := le.Uint32(req[4:]), le.Uint64(req[8:]), req[fuseHeader:]
	var out []byte
	errno := int32(0)
	switch op {
	case fuseForget:
		return
	case fuseInit:
		out = make([]byte, 64)
		le.PutUint32(out[0:], 7)
		le.PutUint32(out[4:], 31)
		le.PutUint32(out[20:], 1<<17) // longest write
	case fuseGetattr:
		out = make([]byte, 16+88)
		attr := out[16:]
		le.PutUint64(attr[0:], 1)
		le.PutUint64(attr[8:], uint64(len(f.data)))
		le.PutUint64(attr[16:], uint64(len(f.data)/512))
		le.PutUint32(attr[60:], unix.S_IFREG|0o600)
		le.PutUint32(attr[64:], 1)
		le.PutUint32(attr[80:], 4096)
	case fuseOpen:
		out = make([]byte, 16)
	case fuseRead:
		off, n := le.Uint64(body[8:]), uint64(le.Uint32(body[16:]))
		end := min(off+n, uint64(len(f.data)))
		f.mu.Lock()
		out = append(out, f.data[min(off, end):end]...)
		f.mu.Unlock()
	case fuseWrite:
		off, n := le.Uint64(body[8:]), le.Uint32(body[16:])
		f.write(int(off), body[40:40+n])
		out = make([]byte, 8)
		le.PutUint32(out, n)
	case fuseRelease, fuseFsync, fuseFlush:
	default:
		errno = -int32(unix.ENOSYS)
	}
	head := make([]byte, 16)
	le.PutUint32(head, uint32(16+len(out)))
	le.PutUint32(head[4:], uint32(errno))
	le.PutUint64(head[8:], unique)
	_, _ = unix.Write(f.dev, append(head, out...))
}

func (f *slowFile) write(off int, data []byte) {
	f.mu.Lock()
	gate := f.gate
	f.mu.Unlock()
	select {
	case <-gate:
	default:
		f.arrived <- struct{}{}
		<-gate
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	copy(f.data[off:], data)
}
