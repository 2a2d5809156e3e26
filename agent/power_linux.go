package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// switchOff takes the machine's power away at once. Services and file systems are not
// ended first: they are frozen, and what they would write now the replica would not have.
func switchOff() error {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		return fmt.Errorf("the kernel does not switch the machine off: %w", err)
	}
	select {} // the kernel needs a moment
}
