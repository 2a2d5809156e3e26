package capture

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture/bpf"
)

// The programs read a page at K + (page >> struct shift << page shift), where page
// is the address of its struct page. Not every kernel shows its symbols, so K is
// derived from what every file system shows: a buffer_head carries both the page
// and the address of data within it.

// agreeing is how many different pages must give the same K.
const agreeing = 2

var errNoSample = errors.New("no buffer_head was seen")

// linearBase derives K. It reads the superblock of a disk, or of a loop device over
// empty memory, to have buffer_heads touched.
func (k *kernel) linearBase() (uint64, error) {
	var base uint64
	err := k.sampled(func(read func() []bpf.KernelSample) error {
		var err error
		for _, touch := range []func() error{touchRoot, touchSuperblock} {
			touchErr := touch()
			if base, err = k.agree(read()); err == nil {
				return nil
			}
			err = errors.Join(err, touchErr)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("finding the kernel's linear map: %w", err)
	}
	return base, nil
}

// agree is the smallest K that enough samples have in common. A buffer in a later
// page of a large folio gives a greater one.
func (k *kernel) agree(samples []bpf.KernelSample) (uint64, error) {
	pages := map[uint64]map[uint64]bool{}
	for _, s := range samples {
		if s.Page == 0 || s.Data == 0 || s.Size == 0 {
			continue
		}
		base := s.Data>>k.pageShift<<k.pageShift - s.Page>>k.pageStructShift<<k.pageShift
		if pages[base] == nil {
			pages[base] = map[uint64]bool{}
		}
		pages[base][s.Page] = true
	}
	best, found := uint64(0), false
	for base, seen := range pages {
		if len(seen) >= agreeing && (!found || int64(base-best) < 0) {
			best, found = base, true
		}
	}
	switch {
	case found:
		return best, nil
	case len(pages) == 0:
		return 0, errNoSample
	}
	return 0, fmt.Errorf("%d buffer_heads gave %d different answers", len(samples), len(pages))
}

// sampled runs fn while touched buffer_heads are being collected.
func (k *kernel) sampled(fn func(read func() []bpf.KernelSample) error) error {
	spec, err := bpf.LoadKernel()
	if err != nil {
		return err
	}
	delete(spec.Programs, bpf.KernelProgSubmitters)
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return fmt.Errorf("loading the buffer_head sampler: %w", err)
	}
	defer coll.Close()
	l, err := link.AttachTracing(link.TracingOptions{Program: coll.Programs[bpf.KernelProgTouchBuffer]})
	if err != nil {
		return fmt.Errorf("attaching the buffer_head sampler: %w", err)
	}
	defer func() { _ = l.Close() }()
	return fn(func() []bpf.KernelSample {
		samples := make([]bpf.KernelSample, coll.Variables[bpf.KernelVarSamples].Size()/uint32(unsafe.Sizeof(bpf.KernelSample{})))
		if coll.Variables[bpf.KernelVarSamples].Get(samples) != nil {
			return nil
		}
		return samples
	})
}

// touchRoot looks up names that do not exist, which makes a file system with
// buffer_heads search its directories.
func touchRoot() error {
	for _, dir := range []string{"/", "/etc", "/usr", "/usr/bin", "/usr/lib", "/var", "/boot", "/home", "/root", "/tmp"} {
		_, _ = os.Lstat(filepath.Join(dir, fmt.Sprintf(".understudy-%d", time.Now().UnixNano())))
	}
	return nil
}

// superblocks are places where file systems look for their superblock by a
// buffer_head, as mount options: each in another page.
var superblocks = map[string][]string{
	"ext4":     {"", "sb=8", "sb=16"},
	"ext2":     {"", "sb=8", "sb=16"},
	"vfat":     {""},
	"iso9660":  {""},
	"squashfs": {""},
}

// touchSuperblock tries to mount a loop device over empty memory, read-only. It must
// fail, for want of a superblock, but looking for one touches a buffer_head.
func touchSuperblock() error {
	loop, err := emptyLoop()
	if err != nil {
		return err
	}
	defer func() { _ = loop.Close() }()
	dir, err := os.MkdirTemp("", "understudy-probe-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(dir) }()
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	for fs, options := range superblocks {
		if !strings.Contains(string(known), "\t"+fs+"\n") {
			continue
		}
		for _, opts := range options {
			if unix.Mount(loop.Name(), dir, fs, unix.MS_RDONLY|unix.MS_SILENT, opts) == nil {
				_ = unix.Unmount(dir, unix.MNT_DETACH)
			}
		}
	}
	return nil
}

// emptyLoop is a free loop device over 1 MiB of zeros, read-only, gone with the
// last Close.
func emptyLoop() (*os.File, error) {
	fd, err := unix.MemfdCreate("understudy-probe", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Ftruncate(fd, 1<<20); err != nil {
		return nil, fmt.Errorf("memfd: %w", err)
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("loop devices (CONFIG_BLK_DEV_LOOP, modprobe loop): %w", err)
	}
	defer func() { _ = control.Close() }()
	for range 10 { // another process may take the free device first
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("no free loop device: %w", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(fd)}
		config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
		if err = configureLoop(int(loop.Fd()), &config); err == nil {
			return loop, nil
		}
		_ = loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("setting up %s: %w", loop.Name(), err)
		}
	}
	return nil, fmt.Errorf("no free loop device")
}

func configureLoop(fd int, config *unix.LoopConfig) error {
	if err := unix.IoctlLoopConfigure(fd, config); !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTTY) {
		return err
	}
	// Before 5.8: two steps.
	if err := unix.IoctlSetInt(fd, unix.LOOP_SET_FD, int(config.Fd)); err != nil {
		return err
	}
	return unix.IoctlLoopSetStatus64(fd, &config.Info)
}
