package capture

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture/bpf"
	"github.com/understudy-dr/understudy/pkg/block"
)

// Defaults of Options.
const (
	defaultInstance  = "agent"
	defaultBPFFS     = "/sys/fs/bpf"
	defaultRingBytes = 64 << 20
	minRingBytes     = 64 << 10
	maxRingBytes     = 1 << 30
)

// source is the capture of this kernel.
type source struct {
	log  *slog.Logger
	dir  string   // of the pins
	lock *os.File // held as long as the source is open
	// object are the programs as compiled, spec what was read from them.
	object []byte
	spec   *ebpf.CollectionSpec
	*objects
	*shared

	// control orders everything but the consumption of the ring.
	control sync.Mutex
	tracked map[block.DiskID]*tracked
	audits  map[block.DiskID]*audit
	closed  bool
	// nothingRetained: the old generation is known to be empty on every disk.
	nothingRetained bool

	// consume guards the ring. Taken after control, where both are.
	consume sync.Mutex
	ring    *ring
	open    openBios
	uneven  time.Time // since when the counts of misses differ; zero: they do not
	slots   atomic.Pointer[[maxDisks]*tracked]
}

// tracked is a disk in its slot.
type tracked struct {
	Disk
	slot  uint32
	dirty *dirtyMap
}

// Open finds the capture that an earlier process left in the kernel under the same
// instance, or begins one. ErrBusy, ErrUnsupported.
func Open(o Options) (Source, Resume, error) {
	return openBuild(o, bpf.Object())
}

// openBuild is Open of an agent that carries these programs.
func openBuild(o Options, object []byte) (Source, Resume, error) {
	if err := o.complete(); err != nil {
		return nil, Resume{}, err
	}
	if err := mountBPFFS(o.BPFFS); err != nil {
		return nil, Resume{}, err
	}
	// Before 5.11 maps count against it, those too that a resumed capture makes later.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, Resume{}, fmt.Errorf("capture: lifting the limit of locked memory: %w", err)
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, Resume{}, fmt.Errorf("capture: reading the programs of this agent: %w", err)
	}
	s := &source{log: o.Log, object: object, spec: spec, dir: filepath.Join(o.BPFFS, "understudy", o.Instance), tracked: map[block.DiskID]*tracked{}, audits: map[block.DiskID]*audit{}}
	if s.lock, err = lockDir(s.dir); err != nil {
		return nil, Resume{}, err
	}
	r, err := s.resumeOrStart(o)
	if err != nil {
		s.release()
		return nil, Resume{}, err
	}
	return s, r, nil
}

func (o *Options) complete() error {
	o.Instance = cmp.Or(o.Instance, defaultInstance)
	o.BPFFS = cmp.Or(o.BPFFS, defaultBPFFS)
	o.RingBytes = cmp.Or(o.RingBytes, defaultRingBytes)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if n := o.RingBytes; n < minRingBytes || n > maxRingBytes || n&(n-1) != 0 {
		return fmt.Errorf("capture: a ring of %d bytes: want a power of two from %d to %d", n, minRingBytes, maxRingBytes)
	}
	if strings.ContainsAny(o.Instance, "./") {
		return fmt.Errorf("capture: instance %q: the BPF file system allows no dot or slash in a name", o.Instance)
	}
	return nil
}

// lockDir makes the directory and takes it for this process.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("capture: making room for pins: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("capture: locking %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%w: %s; end the other agent, or give this one another instance", ErrBusy, dir)
	}
	return f, nil
}

func (s *source) resumeOrStart(o Options) (Resume, error) {
	k, err := inspectKernel()
	if err != nil {
		return Resume{}, err
	}
	if err = s.resume(k); err == nil {
		s.log.Info("capture resumed", "pins", s.dir, "disks", len(s.tracked), "unread_bytes", s.ring.producer()-s.ring.consumer())
		return s.resumed()
	}
	s.letGo()
	if o.Existing {
		return Resume{}, fmt.Errorf("%w: %w", ErrNothing, err)
	}
	var r Resume
	if !errors.Is(err, errNoPins) {
		r.Detail = err.Error()
		s.log.Warn("capture begins anew", "pins", s.dir, "cause", err)
	}
	return r, s.start(o, k)
}

// resumed tells what was taken over.
func (s *source) resumed() (Resume, error) {
	r := Resume{Intact: true}
	origin, err := s.readOrigin()
	switch {
	case errors.Is(err, errNoOrigin):
	case err != nil:
		s.log.Warn("how the capture began is not known", "err", err)
	default:
		r.Origin = &origin
	}
	return r, nil
}

// resume takes over what was pinned, if it is what this agent would have pinned.
func (s *source) resume(k *kernel) (err error) {
	if s.objects, err = loadPins(s.dir); err != nil {
		return err
	}
	if err := checkLayout(s.spec, s.objects); err != nil {
		return err
	}
	if err := buildOf(s.object, k).check(s.objects, k); err != nil {
		return err
	}
	return s.adopt()
}

// start loads, attaches and pins everything anew. What was found and not resumed goes
// only when all else is done: an upgrade that this kernel does not accept leaves it, for
// the agent before it to resume. For that moment there are two rings.
func (s *source) start(o Options, k *kernel) (err error) {
	if s.objects, err = loadObjects(s.spec, k, o.RingBytes); err != nil {
		return err
	}
	if s.maps[buildPin], err = buildOf(s.object, k).keep(); err != nil {
		return err
	}
	if s.shared, err = openShared(s.maps); err != nil {
		return err
	}
	s.state.RingId = rand.Uint64()
	if k.bitwise {
		s.state.Bits = 1
	}
	if s.ring, err = openRing(s.maps["ring"]); err != nil {
		return err
	}
	s.slots.Store(&[maxDisks]*tracked{})
	if err := s.attach(); err != nil {
		return err
	}
	if s.state.Misses, err = s.misses(); err != nil { // one program was there before the other
		return err
	}
	if err := s.pin(s.dir); err != nil {
		return err
	}
	s.log.Info("capture started", "pins", s.dir, "kernel", k.release, "hook", k.hooks.submit, "ring_bytes", o.RingBytes)
	return nil
}

// adopt maps what was pinned.
func (s *source) adopt() (err error) {
	if s.shared, err = openShared(s.maps); err != nil {
		return err
	}
	if s.ring, err = openRing(s.maps["ring"]); err != nil {
		return err
	}
	return s.adoptDisks()
}

// letGo unmaps and closes everything but the lock. What is pinned stays.
func (s *source) letGo() {
	for _, t := range s.tracked {
		t.dirty.close()
	}
	clear(s.tracked)
	if s.ring != nil {
		s.ring.close()
		s.ring = nil
	}
	if s.shared != nil {
		s.shared.close()
		s.shared = nil
	}
	if s.objects != nil {
		s.objects.close()
		s.objects = nil
	}
}

func (s *source) release() {
	s.letGo()
	_ = s.lock.Close()
}

// settle returns when no program runs any more that began before the call.
func (s *source) settle() error {
	return settle(s.maps["dirty"], innerOf(s.spec, bpf.CaptureMapDirty))
}

// hold takes control of an open source.
func (s *source) hold() (unlock func(), err error) {
	s.control.Lock()
	if s.closed {
		s.control.Unlock()
		return nil, ErrClosed
	}
	return s.control.Unlock, nil
}

func (s *source) disk(id block.DiskID) (*tracked, error) {
	if t := s.tracked[id]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("%w: %v", ErrNotTracked, id)
}

func (s *source) Disks() []Disk {
	s.control.Lock()
	defer s.control.Unlock()
	disks := make([]Disk, 0, len(s.tracked))
	for _, t := range s.tracked {
		disks = append(disks, t.Disk)
	}
	slices.SortFunc(disks, func(a, b Disk) int { return strings.Compare(a.Name, b.Name) })
	return disks
}

func (s *source) Arm(ctx context.Context) (Armed, error) {
	unlock, err := s.hold()
	if err != nil {
		return Armed{}, err
	}
	defer unlock()
	s.consume.Lock()
	defer s.consume.Unlock()
	s.disarm()
	if err := s.settle(); err != nil { // nobody writes to the ring any more
		return Armed{}, err
	}
	pos := s.ring.drop()
	s.open = openBios{}
	if err := s.settleMisses(); err != nil { // skipped while map only: in doubt, and not of the new stretch
		return Armed{}, err
	}
	a := Armed{Generation: s.arm(), Ring: s.state.RingId, Pos: pos}
	s.log.InfoContext(ctx, "capture armed", "generation", a.Generation, "position", pos)
	return a, nil
}

func (s *source) Armed() (Armed, bool) {
	s.control.Lock()
	defer s.control.Unlock()
	switch {
	case s.closed:
		return Armed{}, false
	case s.armed() == 0:
		return Armed{Ring: s.state.RingId}, false
	}
	return Armed{Generation: s.armed(), Ring: s.state.RingId, Pos: s.ring.consumer()}, !s.broken()
}

func (s *source) Disarm() error {
	unlock, err := s.hold()
	if err != nil {
		return err
	}
	defer unlock()
	if s.broken() { // the loss may be marked among what is retained, and is not told any more
		s.retain()
	}
	s.disarm()
	return s.settle()
}

func (s *source) Close() error {
	unlock, err := s.hold()
	if err != nil {
		return err
	}
	defer unlock()
	s.consume.Lock()
	defer s.consume.Unlock()
	s.closed = true
	s.release()
	return nil
}

func (s *source) Remove() error {
	unlock, err := s.hold()
	if err != nil {
		return err
	}
	defer unlock()
	s.consume.Lock()
	defer s.consume.Unlock()
	s.closed = true
	err = unpin(s.dir)
	s.release()
	return err
}
