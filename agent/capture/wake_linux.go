package capture

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// waker passes on that the kernel has put a record into a ring that was empty.
type waker struct {
	file  *os.File
	woken chan struct{} // of one: a second wakeup before the first was heard adds nothing
	done  chan struct{}
}

// newWaker watches the ring behind this descriptor, which stays its owner's.
func newWaker(ring int) (*waker, error) {
	fd, err := unix.FcntlInt(uintptr(ring), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true) // or the runtime would not poll it
	}
	if err != nil {
		return nil, fmt.Errorf("capture: watching the ring: %w", err)
	}
	file := os.NewFile(uintptr(fd), "ring")
	conn, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("capture: watching the ring: %w", err)
	}
	w := &waker{file: file, woken: make(chan struct{}, 1), done: make(chan struct{})}
	go w.watch(conn)
	return w, nil
}

func (w *waker) watch(conn syscall.RawConn) {
	defer close(w.done)
	for {
		waited := false
		err := conn.Read(func(uintptr) bool {
			was := waited
			waited = true
			return was // only what comes from now on counts
		})
		if err != nil {
			return // closed
		}
		select {
		case w.woken <- struct{}{}:
		default:
		}
	}
}

func (w *waker) close() {
	_ = w.file.Close()
	<-w.done
}

func (s *source) Doze() <-chan struct{} {
	s.consume.Lock()
	defer s.consume.Unlock()
	if s.ring == nil {
		return nil
	}
	select {
	case <-s.ring.waker.woken:
	default:
	}
	// In this order: what comes after this look wakes.
	if s.ring.producer() != s.ring.consumer() {
		return nil
	}
	return s.ring.waker.woken
}
