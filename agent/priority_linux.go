package main

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// consumerNice is the priority of the thread that empties the kernel's ring. It works
// little, but the ring lasts a fraction of a second: on a machine whose processors are
// all busy it must not wait its turn like everybody else, or the machine pays with a
// resync. Under 150 MB/s of churn on two processors with a load of 30 a thread without
// priority fell back four times in eight seconds, one with it twice or not at all.
const consumerNice = -10

// prioritise gives the calling goroutine a thread of its own, with priority, until the
// goroutine ends. Where that is not permitted it does nothing.
func prioritise() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	// The kernel answers 20 - nice.
	if now, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil && 20-now > consumerNice {
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, consumerNice)
	}
}
