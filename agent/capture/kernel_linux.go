package capture

import (
	"fmt"
	"math/bits"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture/bpf"
)

// hooks names the programs that fit the running kernel. Empty: not needed.
type hooks struct {
	submit  string // sees each new bio
	rescue  string // sees each new bio once more, should submit have been skipped
	split   string // sees bios that are split
	remap   string // sees bios that a driver sends on to another disk
	issue   string // sees requests handed to a driver
	requeue string // sees requests handed back
	failure string // sees requests that failed
}

// names of the chosen programs by role, which is how they are pinned.
func (h hooks) names() map[string]string {
	all := map[string]string{
		"submit": h.submit, "rescue": h.rescue, "split": h.split, "remap": h.remap,
		"issue": h.issue, "requeue": h.requeue, "failure": h.failure,
	}
	for role, name := range all {
		if name == "" {
			delete(all, role)
		}
	}
	return all
}

// kernel is what differs from one running kernel to the next.
type kernel struct {
	release         string
	hooks           hooks
	traceCompletion uint32
	pageStructShift uint32
	pageShift       uint32
	bitwise         bool // a dirty map has a bit a granule, else a byte
}

// kprobeSince is the first major version whose tracepoints are preemptible, so
// that their recursion guard drops writes. It drops some of a kprobe's, too, but seldom
// those of both.
const kprobeSince = 7

func inspectKernel() (*kernel, error) {
	types, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("%w: the kernel carries no BTF (CONFIG_DEBUG_INFO_BTF): %w", ErrUnsupported, err)
	}
	k := &kernel{release: release(), pageShift: uint32(bits.TrailingZeros(uint(unix.Getpagesize())))}
	if err = k.chooseHooks(types); err != nil {
		return nil, err
	}
	if k.traceCompletion, err = flagMask(types, "BIO_TRACE_COMPLETION"); err != nil {
		return nil, err
	}
	if k.pageStructShift, err = pageStructShift(types); err != nil {
		return nil, err
	}
	return k, checkVector(types)
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// chooseHooks prefers the way of copying that makes the fewest records, and below
// 7.0 the tracepoint, which costs less than a kprobe and needs no CONFIG_KPROBES.
func (k *kernel) chooseHooks(types *btf.Spec) error {
	var major, minor int
	if _, err := fmt.Sscanf(k.release, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("%w: kernel release %q is not of the form N.N", ErrUnsupported, k.release)
	}
	queueArgs, err := tracepointArgs(types, "block_bio_queue")
	if err != nil {
		return err
	}
	var f *btf.Func
	whole := types.TypeByName("bpf_probe_read_kernel_dynptr", &f) == nil
	k.bitwise = queueArgs == 1
	h := &k.hooks
	switch {
	case major >= kprobeSince && !whole:
		return fmt.Errorf("%w: kernel %s has no bpf_probe_read_kernel_dynptr; use a kernel built with CONFIG_BPF_EVENTS", ErrUnsupported, k.release)
	case major >= kprobeSince:
		h.submit, h.rescue, h.split = bpf.CaptureProgSubmitWhole, bpf.CaptureProgRescueWhole, bpf.CaptureProgExpectRest
	case whole:
		h.submit, h.remap = bpf.CaptureProgQueueWhole, bpf.CaptureProgRemapWhole
	case k.bitwise:
		h.submit, h.remap = bpf.CaptureProgQueuePieces, bpf.CaptureProgRemapPieces
	default:
		h.submit, h.remap = bpf.CaptureProgQueuePiecesQ, bpf.CaptureProgRemapPiecesQ
	}
	h.failure = bpf.CaptureProgCompleteBytes
	if k.bitwise {
		h.failure = bpf.CaptureProgCompleteBits
	}
	// Stable kernels have changed this one without the other.
	issueArgs, err := tracepointArgs(types, "block_rq_issue")
	h.issue, h.requeue = bpf.CaptureProgIssueRq, bpf.CaptureProgRequeueRq
	if issueArgs == 2 {
		h.issue, h.requeue = bpf.CaptureProgIssueQ, bpf.CaptureProgRequeueQ
	}
	return err
}

// tracepointArgs is the number of a tracepoint's arguments, without the context
// that BTF puts before them.
func tracepointArgs(types *btf.Spec, name string) (int, error) {
	var def *btf.Typedef
	if err := types.TypeByName("btf_trace_"+name, &def); err != nil {
		return 0, fmt.Errorf("%w: tracepoint %s is not in the kernel's BTF: %w", ErrUnsupported, name, err)
	}
	if p, ok := btf.UnderlyingType(def).(*btf.Pointer); ok {
		if proto, ok := p.Target.(*btf.FuncProto); ok {
			return len(proto.Params) - 1, nil
		}
	}
	return 0, fmt.Errorf("%w: tracepoint %s has an unknown form in the kernel's BTF", ErrUnsupported, name)
}

// flagMask finds the bit of a flag that is a member of some unnamed enum.
func flagMask(types *btf.Spec, flag string) (uint32, error) {
	for t, err := range types.All() {
		if err != nil {
			return 0, fmt.Errorf("reading the kernel's BTF: %w", err)
		}
		enum, ok := t.(*btf.Enum)
		if !ok {
			continue
		}
		for _, v := range enum.Values {
			if v.Name == flag {
				return 1 << v.Value, nil
			}
		}
	}
	return 0, fmt.Errorf("%w: the kernel's BTF does not know %s", ErrUnsupported, flag)
}

func pageStructShift(types *btf.Spec) (uint32, error) {
	var page *btf.Struct
	if err := types.TypeByName("page", &page); err != nil {
		return 0, fmt.Errorf("%w: struct page is not in the kernel's BTF: %w", ErrUnsupported, err)
	}
	if bits.OnesCount32(page.Size) != 1 {
		return 0, fmt.Errorf("%w: struct page has %d bytes in this kernel, not a power of two", ErrUnsupported, page.Size)
	}
	return uint32(bits.TrailingZeros32(page.Size)), nil
}

// checkVector holds struct bio_vec against the form in which the programs read it.
func checkVector(types *btf.Spec) error {
	var vec *btf.Struct
	if err := types.TypeByName("bio_vec", &vec); err != nil {
		return fmt.Errorf("%w: struct bio_vec is not in the kernel's BTF: %w", ErrUnsupported, err)
	}
	want := []struct {
		name string
		at   btf.Bits
	}{{"bv_page", 0}, {"bv_len", 64}, {"bv_offset", 96}}
	ok := vec.Size == 16 && len(vec.Members) == len(want)
	for i := 0; ok && i < len(want); i++ {
		ok = vec.Members[i].Name == want[i].name && vec.Members[i].Offset == want[i].at
	}
	if !ok {
		return fmt.Errorf("%w: struct bio_vec has an unknown form in this kernel", ErrUnsupported)
	}
	return nil
}

// configure tells the programs about the kernel.
func (k *kernel) configure(spec *ebpf.CollectionSpec, linearBase uint64) error {
	for name, value := range map[string]any{
		bpf.CaptureVarLinearBase:      linearBase,
		bpf.CaptureVarPageStructShift: k.pageStructShift,
		bpf.CaptureVarPageShift:       k.pageShift,
		bpf.CaptureVarTraceCompletion: k.traceCompletion,
		bpf.CaptureVarArm64:           runtime.GOARCH == "arm64",
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	keep := map[string]bool{}
	for _, name := range k.hooks.names() {
		keep[name] = true
	}
	for name := range spec.Programs {
		if !keep[name] {
			delete(spec.Programs, name)
		}
	}
	if k.hooks.rescue == "" {
		delete(spec.Maps, bpf.CaptureMapTokens) // older kernels do not know its kind
	}
	return nil
}
