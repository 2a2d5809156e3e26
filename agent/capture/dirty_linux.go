package capture

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
)

// A dirty map's granule is 4 KiB, what file systems write; on a disk so large that
// a map would pass 8 MiB it doubles until the map fits: 256 GiB have 4 KiB, 1 TiB
// 16 KiB, 16 TiB 256 KiB. Where the kernel has no atomic OR (5.10, 5.11) a granule
// takes a byte instead of a bit, and the steps come at an eighth of these sizes.
const (
	minGranule    = 4 << 10
	maxDirtyBytes = 8 << 20
	chunkBytes    = 4 << 10 // one element of the map
	wordBytes     = 8
)

// granuleFor is the granule in bytes for a disk of size bytes.
func granuleFor(size int64, bitwise bool) int64 {
	perByte := int64(1)
	if bitwise {
		perByte = 8
	}
	granule := int64(minGranule)
	for size > granule*maxDirtyBytes*perByte {
		granule *= 2
	}
	return granule
}

// dirtyMap is both generations of one disk's map, mapped. A generation is written
// by the programs while it is current, and by this process alone while it is not.
type dirtyMap struct {
	size    int64 // of the disk, bytes
	granule int64 // bytes
	bitwise bool
	mem     [2][]byte
}

// slotIndex is where a generation's map stands in the outer map.
func slotIndex(slot uint32, generation int) uint32 { return slot*2 + uint32(generation) }

// settleIndex is an element of the outer map that no program reads.
const settleIndex = uint32(2 * maxDisks)

// chunksFor is the number of elements for a disk of size bytes.
func chunksFor(size, granule int64, bitwise bool) uint32 {
	perChunk := int64(chunkBytes)
	if bitwise {
		perChunk *= 8
	}
	granules := (size + granule - 1) / granule
	return uint32((granules + perChunk - 1) / perChunk)
}

// createDirty makes both generations, empty, and shows them to the programs.
func createDirty(outer *ebpf.Map, inner *ebpf.MapSpec, slot uint32, size int64, bitwise bool) (*dirtyMap, error) {
	spec := inner.Copy()
	spec.MaxEntries = chunksFor(size, granuleFor(size, bitwise), bitwise)
	for gen := range 2 {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return nil, fmt.Errorf("creating a dirty map of %d KiB: %w", spec.MaxEntries*chunkBytes>>10, err)
		}
		err = outer.Put(slotIndex(slot, gen), m)
		_ = m.Close()
		if err != nil {
			return nil, fmt.Errorf("installing a dirty map: %w", err)
		}
	}
	return openDirty(outer, slot, size, bitwise)
}

// openDirty maps what createDirty made, perhaps in another process.
func openDirty(outer *ebpf.Map, slot uint32, size int64, bitwise bool) (*dirtyMap, error) {
	d := &dirtyMap{size: size, granule: granuleFor(size, bitwise), bitwise: bitwise}
	for gen := range d.mem {
		var m *ebpf.Map
		if err := outer.Lookup(slotIndex(slot, gen), &m); err != nil {
			return nil, fmt.Errorf("finding a dirty map: %w", err)
		}
		mem, err := mapMemory(m, int(m.MaxEntries())*chunkBytes)
		_ = m.Close()
		if err != nil {
			d.close()
			return nil, fmt.Errorf("mapping a dirty map: %w", err)
		}
		d.mem[gen] = mem
	}
	return d, nil
}

func (d *dirtyMap) close() {
	for gen, m := range d.mem {
		if m != nil {
			_ = unix.Munmap(m)
			d.mem[gen] = nil
		}
	}
}

// granuleShift is the granule as the programs want it: log2 of its sectors.
func (d *dirtyMap) granuleShift() uint32 {
	return uint32(bits.TrailingZeros64(uint64(d.granule / block.SectorSize)))
}

func (d *dirtyMap) word(gen, i int) *uint64 {
	return (*uint64)(unsafe.Pointer(&d.mem[gen][i*wordBytes]))
}

// set is the union of both generations as extents of the disk.
func (d *dirtyMap) set() *block.Set {
	set := &block.Set{}
	begin, end := int64(-1), int64(-1) // a run of dirty granules
	for i := range len(d.mem[0]) / wordBytes {
		w := atomic.LoadUint64(d.word(0, i)) | atomic.LoadUint64(d.word(1, i))
		for w != 0 {
			granule, n := d.run(i, w)
			w = d.without(w, granule, n, i)
			if granule != end {
				d.add(set, begin, end)
				begin = granule
			}
			end = granule + n
		}
	}
	d.add(set, begin, end)
	return set
}

// run is the first run of dirty granules in word i.
func (d *dirtyMap) run(i int, w uint64) (granule, n int64) {
	at := bits.TrailingZeros64(w)
	if d.bitwise {
		return int64(i)*64 + int64(at), int64(bits.TrailingZeros64(^(w >> at)))
	}
	return int64(i)*wordBytes + int64(at/8), 1
}

func (d *dirtyMap) without(w uint64, granule, n int64, i int) uint64 {
	if d.bitwise {
		at := granule - int64(i)*64
		return w &^ (^uint64(0) >> (64 - n) << at)
	}
	return w &^ (0xff << (8 * (granule - int64(i)*wordBytes)))
}

// add puts granules [begin, end) into the set; the last one of a disk may be short.
func (d *dirtyMap) add(set *block.Set, begin, end int64) {
	if begin < end {
		off := begin * d.granule
		set.Add(block.Extent{Off: off, Len: min(end*d.granule, d.size) - off})
	}
}

// mark makes the granules that e touches dirty in a generation that may be current.
func (d *dirtyMap) mark(gen int, e block.Extent) {
	if e.Empty() {
		return
	}
	for g := e.Off / d.granule; g*d.granule < e.End(); g++ {
		if d.bitwise {
			atomic.OrUint64(d.word(gen, int(g/64)), 1<<(g%64))
		} else {
			d.mem[gen][g] = 1
		}
	}
}

// clear empties a generation that is not current.
func (d *dirtyMap) clear(gen int) { clear(d.mem[gen]) }

// merge adds a generation to the other, which may be current.
func (d *dirtyMap) merge(from int) {
	to := 1 - from
	for i := range len(d.mem[from]) / wordBytes {
		w := *d.word(from, i)
		switch {
		case w == 0:
		case d.bitwise:
			atomic.OrUint64(d.word(to, i), w)
		default:
			// The programs write bytes here meanwhile: never a whole word.
			var bytes [wordBytes]byte
			binary.NativeEndian.PutUint64(bytes[:], w)
			for j, b := range bytes {
				if b != 0 {
					d.mem[to][i*wordBytes+j] = b
				}
			}
		}
	}
}

// settle returns when every run of a program that began before the call has ended:
// the kernel waits for that when a map in a map is replaced.
func settle(outer *ebpf.Map, inner *ebpf.MapSpec) error {
	m, err := ebpf.NewMap(inner)
	if err != nil {
		return fmt.Errorf("waiting for the capture programs: %w", err)
	}
	defer func() { _ = m.Close() }()
	if err := outer.Put(settleIndex, m); err != nil {
		return fmt.Errorf("waiting for the capture programs: %w", err)
	}
	return nil
}

// innerOf is the form of the maps within a map of maps.
func innerOf(spec *ebpf.CollectionSpec, name string) *ebpf.MapSpec {
	return spec.Maps[name].InnerMap
}
