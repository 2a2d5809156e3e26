package capture

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture/bpf"
)

// The programs read a page at K + (page >> struct shift << page shift), where page
// is the address of its struct page. There are two ways to K: the variables that
// hold where the linear map and the array of struct pages begin, where kallsyms
// shows data symbols; and a buffer_head, which carries both a page and the address
// of data within it. Either will do; where both answer they must agree.

// agreeing is how many different pages must give the same K.
const agreeing = 2

var (
	errNoSymbols = errors.New("/proc/kallsyms does not show page_offset_base and vmemmap_base (CONFIG_KALLSYMS_ALL)")
	errNoSample  = errors.New("no buffer_head was seen in use")
)

func (k *kernel) linearBase() (uint64, error) {
	bySymbols, symbolsErr := k.baseBySymbols()
	byBuffers, buffersErr := k.baseByBuffers()
	switch {
	case symbolsErr == nil && buffersErr == nil && bySymbols != byBuffers:
		return 0, fmt.Errorf("%w: the kernel's linear map: symbols say %#x, a buffer_head says %#x; report this with the kernel's version", ErrUnsupported, bySymbols, byBuffers)
	case symbolsErr == nil:
		return bySymbols, nil
	case buffersErr == nil:
		return byBuffers, nil
	}
	return 0, fmt.Errorf("finding the kernel's linear map: %w", errors.Join(symbolsErr, buffersErr))
}

// baseBySymbols reads both variables with a program that is run but not attached.
func (k *kernel) baseBySymbols() (uint64, error) {
	at, err := symbols("page_offset_base", "vmemmap_base")
	if err != nil {
		return 0, err
	}
	coll, err := loadKernelProgram(bpf.KernelProgReadBases, map[string]uint64{
		bpf.KernelVarPageOffsetAt: at[0], bpf.KernelVarVmemmapAt: at[1],
	})
	if err != nil {
		return 0, err
	}
	defer coll.Close()
	if _, err := coll.Programs[bpf.KernelProgReadBases].Run(&ebpf.RunOptions{}); err != nil {
		return 0, fmt.Errorf("running the reader of kernel variables: %w", err)
	}
	var found bpf.KernelBases
	if err := coll.Variables[bpf.KernelVarFound].Get(&found); err != nil {
		return 0, err
	}
	if found.PageOffset == 0 || found.Vmemmap == 0 {
		return 0, errors.New("the kernel's page_offset_base or vmemmap_base cannot be read")
	}
	return found.PageOffset - found.Vmemmap>>k.pageStructShift<<k.pageShift, nil
}

// symbols finds the addresses of the kernel's variables. errNoSymbols if some are
// not shown.
func symbols(names ...string) ([]uint64, error) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	at := make([]uint64, len(names))
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 { // of a module
			continue
		}
		if i := slices.Index(names, fields[2]); i >= 0 {
			if at[i], err = strconv.ParseUint(fields[0], 16, 64); err != nil {
				return nil, err
			}
		}
	}
	if slices.Contains(at, 0) {
		return nil, errNoSymbols
	}
	return at, nil
}

// sampleRounds is how often buffer_heads are looked at. There is room for a few at a time,
// and where somebody else touches one page over and over, nothing but that page is seen.
const sampleRounds = 30

// baseByBuffers has buffer_heads touched, first by looking around, then in the
// superblock of a disk of our own.
func (k *kernel) baseByBuffers() (base uint64, err error) {
	var seen []bpf.KernelSample
	for range sampleRounds {
		err = sampled(func(read func() []bpf.KernelSample) error {
			var err error
			for _, touch := range []func() error{touchRoot, touchSuperblock} {
				touchErr := touch()
				if base, err = k.agree(append(seen, read()...)); err == nil {
					return nil
				}
				err = errors.Join(err, touchErr)
			}
			seen = append(seen, read()...)
			return err
		})
		if err == nil {
			break
		}
	}
	return base, err
}

// loadKernelProgram loads one of the programs that look at the kernel.
func loadKernelProgram(name string, constants map[string]uint64) (*ebpf.Collection, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raising the limit of locked memory: %w", err)
	}
	spec, err := bpf.LoadKernel()
	if err != nil {
		return nil, err
	}
	for p := range spec.Programs {
		if p != name {
			delete(spec.Programs, p)
		}
	}
	for c, value := range constants {
		if err := spec.Variables[c].Set(value); err != nil {
			return nil, err
		}
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("loading the program %s: %w", name, err)
	}
	return coll, nil
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
func sampled(fn func(read func() []bpf.KernelSample) error) error {
	coll, err := loadKernelProgram(bpf.KernelProgTouchBuffer, nil)
	if err != nil {
		return err
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
// buffer_heads search its directories. Twice in each: newer kernels do not call a
// buffer_head touched that was not among the last few in use.
func touchRoot() error {
	for _, dir := range []string{"/", "/etc", "/usr", "/usr/bin", "/usr/lib", "/var", "/boot", "/home", "/root", "/tmp"} {
		for range 2 {
			_, _ = os.Lstat(filepath.Join(dir, fmt.Sprintf(".understudy-%d", time.Now().UnixNano())))
		}
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
