package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture/bpf"
)

// Probe looks whether this kernel and its disks can be captured. It loads the
// programs but attaches none of them to a disk's writes.
func Probe(ctx context.Context) Report {
	r := Report{System: "Linux", Kernel: release()}
	r.Checks = []Check{
		probeKernel(r.Kernel),
		probePrivilege(),
		probeBTF(),
		probeMap("ring buffer", ebpf.RingBuf, "a kernel from 5.8"),
		probeMap("maps in maps", ebpf.ArrayOfMaps, "a kernel from 4.12"),
		probeJIT(),
		probeLockdown(),
		probeBPFFS(),
		probePreemption(),
	}
	programs, bitwise := probePrograms()
	r.Checks = append(r.Checks, programs...)
	r.Answer = sumUp(r.Checks)
	r.Disks = probeDisks(ctx, bitwise)
	r.Reboot = probeReboot(r.Kernel, r.Disks)
	return r
}

// verdict turns an error into an answer: unsupported is a no, anything else could
// not be told.
func verdict(feature string, err error, found, remedy string) Check {
	switch {
	case err == nil:
		return Check{Feature: feature, Answer: Yes, Detail: found}
	case errors.Is(err, ErrUnsupported), errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, ErrRefused):
		return Check{Feature: feature, Answer: No, Detail: err.Error(), Remedy: remedy}
	}
	return Check{Feature: feature, Answer: Unknown, Detail: err.Error(), Remedy: remedy}
}

func probeKernel(release string) Check {
	const feature, remedy = "kernel", "a kernel from 5.10"
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return Check{feature, Unknown, "release " + release + " is not of the form N.N", remedy}
	}
	if major < 5 || major == 5 && minor < 10 {
		return Check{feature, No, release, remedy}
	}
	return Check{Feature: feature, Answer: Yes, Detail: release}
}

func probePrivilege() Check {
	const feature = "privilege"
	if os.Geteuid() != 0 {
		return Check{feature, Unknown, "not root: most of what follows cannot be told", "run the probe as root"}
	}
	return Check{Feature: feature, Answer: Yes, Detail: "root"}
}

func probeBTF() Check {
	_, err := btf.LoadKernelSpec()
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: no /sys/kernel/btf/vmlinux", ErrUnsupported)
	}
	return verdict("BTF", err, "/sys/kernel/btf/vmlinux", "a kernel built with CONFIG_DEBUG_INFO_BTF=y")
}

func probeMap(feature string, kind ebpf.MapType, remedy string) Check {
	return verdict(feature, features.HaveMapType(kind), "", remedy)
}

func probeJIT() Check {
	const feature, remedy = "JIT", "sysctl net.core.bpf_jit_enable=1 (CONFIG_BPF_JIT=y)"
	b, err := os.ReadFile("/proc/sys/net/core/bpf_jit_enable")
	switch s := strings.TrimSpace(string(b)); {
	case err != nil:
		return Check{feature, Unknown, err.Error(), remedy}
	case s == "0":
		return Check{feature, No, "net.core.bpf_jit_enable is 0", remedy}
	default:
		return Check{Feature: feature, Answer: Yes, Detail: "net.core.bpf_jit_enable is " + s}
	}
}

// probeLockdown: integrity (Secure Boot) lets programs read memory, confidentiality
// does not.
func probeLockdown() Check {
	const feature, remedy = "lockdown", "boot with lockdown=integrity, or none"
	b, err := os.ReadFile("/sys/kernel/security/lockdown")
	s := strings.TrimSpace(string(b))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return Check{Feature: feature, Answer: Yes, Detail: "not in this kernel, or securityfs is not mounted"}
	case err != nil:
		return Check{feature, Unknown, err.Error(), remedy}
	case strings.Contains(s, "[confidentiality]"):
		return Check{feature, No, s, remedy}
	}
	return Check{Feature: feature, Answer: Yes, Detail: s}
}

func probeBPFFS() Check {
	const feature, remedy = "BPF file system", "mount -t bpf bpf /sys/fs/bpf"
	var st unix.Statfs_t
	if err := unix.Statfs(defaultBPFFS, &st); err == nil && st.Type == unix.BPF_FS_MAGIC {
		return Check{Feature: feature, Answer: Yes, Detail: defaultBPFFS}
	}
	known, err := os.ReadFile("/proc/filesystems")
	switch {
	case err != nil:
		return Check{feature, Unknown, err.Error(), remedy}
	case !strings.Contains(string(known), "\tbpf\n"):
		return Check{feature, No, "the kernel has none", "a kernel built with CONFIG_BPF_SYSCALL=y"}
	}
	return Check{Feature: feature, Answer: Yes, Detail: "not mounted; the agent mounts it on " + defaultBPFFS}
}

func probePreemption() Check {
	const feature = "preemption"
	if b, err := os.ReadFile("/sys/kernel/realtime"); err == nil && strings.TrimSpace(string(b)) == "1" {
		return Check{feature, Unknown, "a PREEMPT_RT kernel: capture was not tried on one", "a kernel without PREEMPT_RT"}
	}
	return Check{Feature: feature, Answer: Yes, Detail: "not PREEMPT_RT"}
}

// probePrograms chooses the hook, finds the linear map and asks the verifier.
func probePrograms() (checks []Check, bitwise bool) {
	k, err := inspectKernel()
	if err != nil {
		return []Check{verdict("hook", err, "", "a kernel that the remark does not exclude")}, true
	}
	checks = append(checks, probeHook(k))
	base, err := k.linearBase()
	checks = append(checks, verdict("linear map", err, fmt.Sprintf("derived: %#x", base),
		"a kernel with CONFIG_KALLSYMS_ALL=y; or modprobe loop and ext4, and try again"))
	if err != nil {
		return checks, k.bitwise
	}
	return append(checks, verdict("programs", tryPrograms(k, base), "accepted by the verifier", "report this with the kernel's version")), k.bitwise
}

func probeHook(k *kernel) Check {
	const feature = "hook"
	if k.hooks.submit != bpf.CaptureProgSubmitWhole {
		return Check{Feature: feature, Answer: Yes, Detail: "tracepoint block_bio_queue, program " + k.hooks.submit}
	}
	if _, err := os.Stat("/sys/bus/event_source/devices/kprobe"); err != nil {
		return Check{feature, No, "kernels from 7.0 need a kprobe, and this one has none", "a kernel built with CONFIG_KPROBES=y"}
	}
	return Check{Feature: feature, Answer: Yes, Detail: "kprobe submit_bio_noacct_nocheck, program " + k.hooks.submit}
}

// tryPrograms loads everything and lets go of it.
func tryPrograms(k *kernel, base uint64) error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return err
	}
	spec, err := bpf.LoadCapture()
	if err != nil {
		return err
	}
	if err := k.configure(spec, base); err != nil {
		return err
	}
	spec.Maps[bpf.CaptureMapRing].MaxEntries = minRingBytes
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return loadError(k, err)
	}
	coll.Close()
	return nil
}

func probeDisks(ctx context.Context, bitwise bool) []DiskReport {
	var reports []DiskReport
	entries, err := os.ReadDir(sysBlock)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			break
		}
		if n, err := sysInt(e.Name(), "size"); err != nil || n == 0 {
			continue
		}
		reports = append(reports, probeDisk(e.Name(), bitwise))
	}
	return reports
}

func probeDisk(kernelName string, bitwise bool) DiskReport {
	d, nameErr := describe(kernelName)
	r := DiskReport{Disk: d}
	if r.Path == "" {
		r.Path = "/dev/" + kernelName
	}
	name := verdict("stable name", nameErr, d.Name, "write a GPT, or give the virtual disk a serial number")
	if errors.Is(nameErr, ErrNoDisk) {
		name.Answer = No
	}
	r.Checks = []Check{
		verdict("capture", refuse(kernelName), "a whole disk, the lowest of its kind", "protect the disk that the remark names"),
		name,
	}
	if nameErr == nil {
		granule := granuleFor(d.Size, bitwise)
		r.Checks = append(r.Checks, Check{Feature: "dirty map", Answer: Yes, Detail: fmt.Sprintf("granule %s, twice %s of memory",
			bytesText(granule), bytesText(int64(chunksFor(d.Size, granule, bitwise))*chunkBytes))})
	}
	r.Answer = sumUp(r.Checks)
	return r
}
