// Package capturetest is a kernel for tests: disks in memory, a ring of few records and
// dirty maps, with the promises that capture.Source states and the freedom that a real
// one takes. A write is captured when it is submitted and reaches its disk later; two in
// flight arrive in any order. What each disk held at every moment is known, so that a
// recovery point can be judged.
//
// A Kernel outlives the agents that hold a Source on it. It works on real time and in a
// bubble of fake time.
package capturetest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// Cell is the unit of writes, in bytes: every cell of a disk holds one number, the one
// last written there, over and over.
const Cell = 1024

// Kernel is one machine's kernel and its disks.
type Kernel struct {
	// Capacity is how many records the ring holds.
	Capacity int

	mu      sync.Mutex
	history History
	disks   []*disk
	flights []*flight
	counter uint64
	clock   time.Duration // how far the machine's clock is off

	ring     []record
	base     uint64 // ring position of ring[0]
	cursor   uint64
	reserved uint64 // behind the last record reserved before the last Poll began
	armed    bool
	lost     bool
	stretch  uint64
	boot     uint64 // names the ring
	bell     Bell
}

type record struct {
	capture.Record
	disk *disk
}

// disk is one disk and what the kernel knows of it.
type disk struct {
	capture.Disk
	index             int
	content           []uint64 // of each cell
	gone              bool
	tracked           bool
	left              bool  // it was gone since it was tracked: what answers now is another device
	size              int64 // as tracked
	suspect           bool
	current, retained block.Set
}

// flight is a write between its submission and its completion.
type flight struct {
	disk   *disk
	first  int // cell
	values []uint64
	change []int // in the history
	timer  *time.Timer
	done   chan struct{}
}

// New makes a machine with disks of so many cells each.
func New(cells ...int) *Kernel {
	k := &Kernel{Capacity: 64, boot: 1}
	for i, n := range cells {
		name := string(rune('a' + i))
		k.disks = append(k.disks, &disk{
			Disk:  capture.Disk{ID: block.DiskIDFromName(name), Name: name, Path: "/dev/" + name, Major: 7, Minor: uint32(i), Size: int64(n) * Cell, SectorSize: block.SectorSize},
			index: i, content: make([]uint64, n),
		})
	}
	k.history.init(len(cells))
	return k
}

// Now is the machine's clock.
func (k *Kernel) Now() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now()
}

func (k *Kernel) now() time.Time { return time.Now().Add(k.clock) }

// Jump sets the machine's clock forward, or back.
func (k *Kernel) Jump(by time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.clock += by
	k.history.clocks = append(k.history.clocks, clock{k.clock, time.Now()})
}

// Found are the disks that the machine has.
func (k *Kernel) Found() []capture.Disk {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []capture.Disk
	for _, d := range k.disks {
		if !d.gone {
			out = append(out, d.Disk)
		}
	}
	return out
}

// IDs are those of all disks, present or not, in their order.
func (k *Kernel) IDs() []block.DiskID {
	k.mu.Lock()
	defer k.mu.Unlock()
	var ids []block.DiskID
	for _, d := range k.disks {
		ids = append(ids, d.ID)
	}
	return ids
}

// Cells is how many cells a disk has.
func (k *Kernel) Cells(disk int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.disks[disk].content)
}

// Write submits one write of the protected machine to some cells, with numbers never
// written before (zeros, if op is not a write). It comes in parts records and reaches
// the disk after a while; at once for none.
func (k *Kernel) Write(disk, cell, cells, parts int, op frame.Op, after time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.disks[disk]
	if d.gone || cell >= len(d.content) {
		return
	}
	cells = min(cells, len(d.content)-cell)
	k.settle(d, cell, cells) // what is overwritten in flight has no order
	f := &flight{disk: d, first: cell, values: make([]uint64, cells), done: make(chan struct{})}
	if op == frame.OpWrite {
		for i := range f.values {
			k.counter++
			f.values[i] = k.counter
		}
	}
	k.capture(f, parts, op)
	k.flights = append(k.flights, f)
	if after <= 0 {
		k.complete(f)
		return
	}
	f.timer = time.AfterFunc(after, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.complete(f)
	})
}

// capture marks a write and puts its records into the ring, and tells the history.
func (k *Kernel) capture(f *flight, parts int, op frame.Op) {
	d, at := f.disk, k.now()
	k.mark(d, f.first, len(f.values))
	parts = max(1, min(parts, len(f.values)))
	for i := range parts {
		from, to := i*len(f.values)/parts, (i+1)*len(f.values)/parts
		f.change = append(f.change, k.history.submit(d.index, f.first+from, f.values[from:to]))
		r := capture.Record{
			Disk: d.ID, Op: op, At: at, More: i < parts-1,
			Extent: block.Extent{Off: int64(f.first+from) * Cell, Len: int64(to-from) * Cell},
		}
		if op == frame.OpWrite {
			r.Data = fill(f.values[from:to])
		}
		k.put(d, r)
	}
}

// mark sets bits of the dirty map. What lies beyond it puts the whole disk in doubt.
func (k *Kernel) mark(d *disk, cell, cells int) {
	if !d.tracked || d.left {
		return
	}
	e := block.Extent{Off: int64(cell) * Cell, Len: int64(cells) * Cell}.Align(block.FineGranule)
	if e.End() > d.size {
		d.suspect = true
		k.lost = k.lost || k.armed
		e.Len = max(0, d.size-e.Off)
	}
	d.current.Add(e)
}

func (k *Kernel) put(d *disk, r capture.Record) {
	if !d.tracked || d.left || !k.armed || k.lost {
		return
	}
	if len(k.ring) >= k.Capacity {
		k.lost = true
		return
	}
	if len(k.ring) == 0 {
		k.bell.Ring()
	}
	r.Pos = k.base + uint64(len(k.ring)) + 1
	k.ring = append(k.ring, record{r, d})
}

// fill is what a write of these numbers brings.
func fill(values []uint64) []byte {
	b := make([]byte, len(values)*Cell)
	for i, v := range values {
		cell := b[i*Cell : (i+1)*Cell]
		binary.LittleEndian.PutUint64(cell, v)
		for n := 8; n < Cell; n *= 2 {
			copy(cell[n:], cell[:n])
		}
	}
	return b
}

// complete lets a write reach its disk. mu is held.
func (k *Kernel) complete(f *flight) {
	i := slices.Index(k.flights, f)
	if i < 0 {
		return
	}
	k.flights = slices.Delete(k.flights, i, i+1)
	copy(f.disk.content[f.first:], f.values)
	k.history.acknowledge(f.change)
	k.land(f)
}

func (k *Kernel) land(f *flight) {
	if f.timer != nil {
		f.timer.Stop()
	}
	close(f.done)
}

// settle completes what is in flight to these cells. mu is held.
func (k *Kernel) settle(d *disk, cell, cells int) {
	for _, f := range slices.Clone(k.flights) {
		if f.disk == d && f.first < cell+cells && cell < f.first+len(f.values) {
			k.complete(f)
		}
	}
}

// Flush waits until every write submitted so far has reached its disk.
func (k *Kernel) Flush(ids ...block.DiskID) {
	k.mu.Lock()
	flights := slices.Clone(k.flights)
	k.mu.Unlock()
	for _, f := range flights {
		if len(ids) == 0 || slices.Contains(ids, f.disk.ID) {
			<-f.done
		}
	}
}

// PowerCut ends the kernel: ring and maps are gone, and of what was in flight each cell
// has reached its disk or not.
func (k *Kernel) PowerCut(rng *rand.Rand) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, f := range k.flights {
		for i, v := range f.values {
			if rng.IntN(2) == 0 {
				f.disk.content[f.first+i] = v
			}
		}
		k.land(f)
	}
	k.flights, k.ring, k.base, k.cursor, k.armed, k.lost = nil, nil, 0, 0, false, false
	k.boot++
	for _, d := range k.disks {
		d.untrack()
	}
	for i, d := range k.disks {
		k.history.become(i, d.content)
	}
}

func (d *disk) untrack() {
	d.tracked, d.left, d.suspect, d.current, d.retained = false, false, false, block.Set{}, block.Set{}
}

// Grow makes a disk larger.
func (k *Kernel) Grow(disk, cells int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.disks[disk]
	d.content = append(d.content, make([]uint64, cells)...)
	d.Size = int64(len(d.content)) * Cell
	k.history.grow(disk, cells)
}

// Detach takes a disk away; Attach brings it back, with other content in some cells if
// another machine wrote to it.
func (k *Kernel) Detach(disk int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.disks[disk]
	k.settle(d, 0, len(d.content))
	d.gone, d.left = true, d.tracked
}

// Attach brings a disk back; changed cells were written elsewhere meanwhile.
func (k *Kernel) Attach(disk int, changed ...int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.disks[disk]
	d.gone = false
	for _, c := range changed {
		k.counter++
		d.content[c%len(d.content)] = k.counter
	}
	if len(changed) > 0 {
		k.history.become(disk, d.content)
	}
}

// Find looks for the moment that an image shows, see History.Find.
func (k *Kernel) Find(img Image, from int, at time.Time) (state int, near string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.history.Find(img, from, at)
}

// Holds reports whether the image is of all disks and what they hold now, with all that
// was submitted.
func (k *Kernel) Holds(img Image) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	sums, err := img.sums()
	if err != nil || !img.same(sums, k.history.sums[len(k.history.sums)-1]) {
		return false
	}
	for i, d := range k.disks {
		if int64(len(img[i])) != d.Size {
			return false
		}
	}
	return true
}

// Distance says how an image differs from what the disks hold.
func (k *Kernel) Distance(img Image) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, d := range k.disks {
		if int64(len(img[i])) != d.Size {
			return fmt.Sprintf("has %d bytes of disk %s, which has %d", len(img[i]), d.Name, d.Size)
		}
		for cell, v := range k.history.now[i] {
			if got := binary.LittleEndian.Uint64(img[i][cell*Cell:]); got != v {
				return fmt.Sprintf("has %d in cell %d of disk %s, which holds %d", got, cell, d.Name, v)
			}
		}
	}
	return "is what the disks hold"
}
