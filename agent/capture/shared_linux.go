package capture

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture/bpf"
)

// maxDisks is the number of slots the programs have.
const maxDisks = 256

// shared is the memory that the programs and this process both write.
type shared struct {
	state *bpf.CaptureState
	disks *[maxDisks]bpf.CaptureDisk
	mem   [][]byte
}

func openShared(maps map[string]*ebpf.Map) (*shared, error) {
	s := &shared{}
	state, err := mapMemory(maps["state"], int(unsafe.Sizeof(*s.state)))
	if err != nil {
		return nil, fmt.Errorf("mapping the capture state: %w", err)
	}
	disks, err := mapMemory(maps["disks"], int(unsafe.Sizeof(*s.disks)))
	if err != nil {
		_ = unix.Munmap(state)
		return nil, fmt.Errorf("mapping the tracked disks: %w", err)
	}
	s.mem = [][]byte{state, disks}
	s.state = (*bpf.CaptureState)(unsafe.Pointer(&state[0]))
	s.disks = (*[maxDisks]bpf.CaptureDisk)(unsafe.Pointer(&disks[0]))
	return s, nil
}

func (s *shared) close() {
	for _, m := range s.mem {
		_ = unix.Munmap(m)
	}
}

// mapMemory maps a BPF array of at least size bytes.
func mapMemory(m *ebpf.Map, size int) ([]byte, error) {
	page := unix.Getpagesize()
	return unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// armed is the stretch being captured, 0 if none.
func (s *shared) armed() uint64 { return atomic.LoadUint64(&s.state.Armed) }

// broken reports whether something was lost since arming.
func (s *shared) broken() bool {
	armed := s.armed()
	return armed != 0 && atomic.LoadUint64(&s.state.Lost) != armed
}

// cut is the ring position from which on nothing is to be trusted.
func (s *shared) cut() uint64 { return atomic.LoadUint64(&s.state.Cut) }

// generation is the index of the current dirty maps, 0 or 1.
func (s *shared) generation() int { return int(atomic.LoadUint64(&s.state.Generation) & 1) }

// lose records a loss found on this side, as the programs do on theirs: doubt
// first, then the count. It takes effect on all data captured from now on.
func (s *shared) lose(cause int, slots ...uint32) {
	for _, slot := range slots {
		atomic.AddUint64(&s.disks[slot].Suspect[s.generation()], 1)
	}
	atomic.AddUint64(&s.state.Causes[cause], 1)
	atomic.AddUint64(&s.state.Lost, 1)
}

// arm begins a stretch. Whatever was lost between the two steps is lost in it.
func (s *shared) arm() uint64 {
	for i := range s.state.Causes {
		s.state.CausesArmed[i] = atomic.LoadUint64(&s.state.Causes[i])
	}
	atomic.StoreUint64(&s.state.Cut, ^uint64(0))
	stretch := atomic.AddUint64(&s.state.Lost, 1)
	atomic.StoreUint64(&s.state.Armed, stretch)
	return stretch
}

func (s *shared) disarm() { atomic.StoreUint64(&s.state.Armed, 0) }
