package resync

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/mounts"
)

// Sync has everybody who keeps something in memory that belongs on the disk write it:
// the file systems first, then the page caches of the devices that they lie on, from the
// top of a stack (LVM, md, crypt) down to the disk. A mount that only another mount
// namespace sees is not reached.
func (d *linuxDevice) Sync(ctx context.Context) error {
	if d.sysfs == "" {
		return unix.Fsync(d.fd)
	}
	stack, err := devicesOn(d.sysfs)
	if err != nil {
		return err
	}
	table, err := mounts.Table()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range mountsOn(table, mounts.WithSiblings(stack)) {
		errs = append(errs, patiently(ctx, m.String(), m.sync))
	}
	for _, dev := range slices.Backward(stack) {
		errs = append(errs, patiently(ctx, "device "+dev, func() error { return syncDevice(dev) }))
	}
	return errors.Join(errs...)
}

// devicesOn lists the device numbers of a disk, its partitions, and whatever is stacked
// on them, the lower ones first. All of them are told of in sysfs.
func devicesOn(sysfs string) ([]string, error) {
	below, err := parts(sysfs)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, p := range below {
		found = append(found, p.dev)
	}
	whole, err := filepath.Glob(filepath.Join(sysfs, "holders", "*"))
	inside, err1 := filepath.Glob(filepath.Join(sysfs, "*", "holders", "*")) // of its partitions
	if err := errors.Join(err, err1); err != nil {
		return nil, err
	}
	for _, holder := range append(whole, inside...) {
		above, err := devicesOn(holder)
		if err != nil {
			return nil, err
		}
		// One that stands on two partitions comes behind both.
		found = slices.DeleteFunc(found, func(dev string) bool { return slices.Contains(above, dev) })
		found = append(found, above...)
	}
	return found, nil
}

// mountsOn finds in a table of mounts what is mounted from one of the devices.
func mountsOn(table []mounts.Mount, devices []string) []mount {
	var found []mount
	for _, m := range table {
		if slices.Contains(devices, m.Device()) {
			found = once(found, mount{Mount: m})
		}
	}
	return found
}

// sync writes out the file system. One that is hidden under another mount, or has gone,
// is passed over: what it had in memory when it went is on its device.
func (m mount) sync() error {
	fd, err := m.open()
	if err != nil {
		return nil //nolint:nilerr // as said above
	}
	defer unix.Close(fd)
	return unix.Syncfs(fd)
}

// syncDevice writes out the page cache of a device. Without a node in /dev nobody has
// opened it there to write to.
func syncDevice(dev string) error {
	sysfs, err := filepath.EvalSymlinks("/sys/dev/block/" + dev)
	if err != nil {
		return nil //nolint:nilerr // it has gone
	}
	node := "/dev/" + strings.ReplaceAll(filepath.Base(sysfs), "!", "/")
	if mounts.DeviceAt(node) != dev {
		return nil
	}
	fd, err := unix.Open(node, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fsync(fd)
}

// patiently waits for what cannot be interrupted as long as syncPatience.
func patiently(ctx context.Context, what string, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	patience := time.NewTimer(syncPatience)
	defer patience.Stop()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%s does not sync: %w", what, err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-patience.C:
		return fmt.Errorf("%s did not sync in time, perhaps it is frozen", what)
	}
}
