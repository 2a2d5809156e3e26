package capture

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// clockApart is how far apart two readings of the boot clock may lie for the wall
	// clock's between them to belong to both: less than a write takes from the program
	// that begins it to capture, or from capture to its acknowledgement.
	clockApart = time.Microsecond
	// clockTries bounds how often a disturbed reading is repeated. One reading in some
	// hundred thousand is disturbed, by up to 66 ms on two busy processors.
	clockTries = 100
)

// bootTime is the wall clock's time of the moment from which records are counted.
//
// A frame's time says that every write acknowledged before it is there, and none begun
// after it, so that no side is the safe one to err on: the wall clock is read between two
// readings of the other, and again while anything came between them.
func bootTime(wall func() time.Time, boot func() time.Duration) time.Time {
	var at time.Time
	least := time.Duration(-1)
	for range clockTries {
		before, now, after := boot(), wall(), boot()
		if apart := after - before; least < 0 || apart < least {
			at, least = now.Add(-before), apart
		}
		if least <= clockApart {
			break
		}
	}
	return at
}

// bootClock is how long the machine is up, with the time that it slept: the clock that
// records carry.
func bootClock() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0 // it has existed since Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}
