package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture/bpf"
)

// Names of the maps that are pinned, by their names in the object. The BPF file
// system allows no dots.
var pinned = map[string]string{
	bpf.CaptureMapRing:     "ring",
	bpf.CaptureMapDevices:  "devices",
	bpf.CaptureMapNames:    "names",
	bpf.CaptureMapCounts:   "counts",
	bpf.CaptureMapDirty:    "dirty",
	bpf.CaptureMapExcludes: "excludes",
	".data.state":          "state",
	".data.disks":          "disks",
}

// objects are the maps by pinned name and the programs and links by role.
type objects struct {
	maps     map[string]*ebpf.Map
	programs map[string]*ebpf.Program
	links    map[string]link.Link
}

func newObjects() *objects {
	return &objects{maps: map[string]*ebpf.Map{}, programs: map[string]*ebpf.Program{}, links: map[string]link.Link{}}
}

// close lets go of the file descriptors. What is pinned stays.
func (o *objects) close() {
	for _, l := range o.links {
		_ = l.Close()
	}
	for _, p := range o.programs {
		_ = p.Close()
	}
	for _, m := range o.maps {
		_ = m.Close()
	}
}

// loadObjects puts the maps and the programs that fit into the kernel, unattached.
func loadObjects(spec *ebpf.CollectionSpec, k *kernel, ringBytes int) (*objects, error) {
	base, err := k.linearBase()
	if err != nil {
		return nil, err
	}
	if err := k.configure(spec, base); err != nil {
		return nil, err
	}
	spec.Maps[bpf.CaptureMapRing].MaxEntries = uint32(ringBytes)
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, loadError(k, err)
	}
	defer coll.Close()
	o := newObjects()
	for name, pin := range pinned {
		o.maps[pin] = coll.DetachMap(name)
	}
	for role, name := range k.hooks.names() {
		o.programs[role] = coll.DetachProgram(name)
	}
	return o, nil
}

func loadError(k *kernel, err error) error {
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		return fmt.Errorf("%w: kernel %s does not accept the capture program; report this with the kernel's version: %w", ErrUnsupported, k.release, err)
	}
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("loading the capture program: %w; run as root, with lockdown at most at integrity", err)
	}
	return fmt.Errorf("loading the capture program: %w", err)
}

// attach hooks the programs in. Submission comes last: from then on writes of
// tracked disks are seen, and their issue already is.
func (o *objects) attach() error {
	for _, role := range []string{"failure", "requeue", "issue", "remap", "rescue", "split", "submit"} {
		p := o.programs[role]
		if p == nil {
			continue
		}
		l, err := attachProgram(p)
		if err != nil {
			return fmt.Errorf("attaching %s: %w", p, err)
		}
		o.links[role] = l
	}
	return nil
}

func attachProgram(p *ebpf.Program) (link.Link, error) {
	if p.Type() == ebpf.Kprobe {
		return link.Kprobe("submit_bio_noacct_nocheck", p, nil)
	}
	return link.AttachTracing(link.TracingOptions{Program: p})
}

// pin writes everything under dir/live, in one rename, in the place of what is there.
func (o *objects) pin(dir string) error {
	fresh := filepath.Join(dir, "new")
	if err := unpin(fresh); err != nil {
		return err
	}
	for _, kind := range []string{"maps", "programs", "links"} {
		if err := os.MkdirAll(filepath.Join(fresh, kind), 0o700); err != nil {
			return fmt.Errorf("making room for pins: %w", err)
		}
	}
	var errs []error
	for name, m := range o.maps {
		errs = append(errs, m.Pin(filepath.Join(fresh, "maps", name)))
	}
	for role, p := range o.programs {
		errs = append(errs, p.Pin(filepath.Join(fresh, "programs", role)))
	}
	for role, l := range o.links {
		errs = append(errs, l.Pin(filepath.Join(fresh, "links", role)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("pinning under %s: %w", fresh, err)
	}
	live := filepath.Join(dir, "live")
	if err := unpin(live); err != nil {
		return err
	}
	if err := os.Rename(fresh, live); err != nil {
		return fmt.Errorf("pinning under %s: %w", dir, err)
	}
	return nil
}

// errNoPins: there is nothing to resume.
var errNoPins = errors.New("no pins")

// loadPins finds what pin left under dir. errNoPins if there is nothing; any other
// error says why it cannot be used.
func loadPins(dir string) (*objects, error) {
	live := filepath.Join(dir, "live")
	if _, err := os.Stat(live); errors.Is(err, fs.ErrNotExist) {
		return nil, errNoPins
	}
	o := newObjects()
	err := errors.Join(
		eachPin(filepath.Join(live, "maps"), func(name, path string) (err error) {
			o.maps[name], err = ebpf.LoadPinnedMap(path, nil)
			return err
		}),
		eachPin(filepath.Join(live, "programs"), func(role, path string) (err error) {
			o.programs[role], err = ebpf.LoadPinnedProgram(path, nil)
			return err
		}),
		eachPin(filepath.Join(live, "links"), func(role, path string) (err error) {
			o.links[role], err = link.LoadPinnedLink(path, nil)
			return err
		}))
	for _, name := range pinned {
		if err == nil && o.maps[name] == nil {
			err = fmt.Errorf("the map %s is missing", name)
		}
	}
	if err != nil {
		o.close()
		return nil, fmt.Errorf("pins under %s are not usable: %w", live, err)
	}
	return o, nil
}

func eachPin(dir string, load func(name, path string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := load(e.Name(), filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
	}
	return nil
}

// unpin removes the pins under dir; links first, so that nothing runs half dismantled.
func unpin(dir string) error {
	for _, kind := range []string{"links", "programs", "maps"} {
		if err := os.RemoveAll(filepath.Join(dir, kind)); err != nil {
			return fmt.Errorf("removing pins: %w", err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing pins: %w", err)
	}
	return nil
}

// checkLayout holds pinned maps against those of this build.
func checkLayout(spec *ebpf.CollectionSpec, o *objects) error {
	var want bpf.CaptureState
	if err := spec.Variables[bpf.CaptureVarSelf].Get(&want); err != nil {
		return err
	}
	raw, err := o.maps["state"].LookupBytes(uint32(0))
	if err != nil || len(raw) < 8 {
		return fmt.Errorf("reading the pinned state: %w", err)
	}
	if got := binary.NativeEndian.Uint64(raw); got != want.Layout {
		return fmt.Errorf("the running capture has layout %d, this agent layout %d", got, want.Layout)
	}
	for name, pin := range pinned {
		if pin == "ring" { // its size is an option
			continue
		}
		want := spec.Maps[name].Copy()
		if strings.HasPrefix(name, ".data") { // as the loader makes them
			want.Flags |= unix.BPF_F_MMAPABLE
		}
		if err := want.Compatible(o.maps[pin]); err != nil {
			return fmt.Errorf("the pinned map %s: %w", pin, err)
		}
	}
	return nil
}

// mountBPFFS sees to it that a BPF file system is mounted.
func mountBPFFS(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err == nil && st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := os.MkdirAll(path, 0o700); err != nil && !strings.HasPrefix(path, "/sys/") {
		return err
	}
	if err := unix.Mount("bpf", path, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mounting the BPF file system on %s: %w", path, err)
	}
	return nil
}
