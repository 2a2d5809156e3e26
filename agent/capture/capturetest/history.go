package capturetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
)

// History is every state that the disks of a machine went through, in the order in
// which their writes were submitted: state n is what the first n changes make of zeros.
type History struct {
	changes []change
	sums    [][]uint64 // of each state, a sum of each disk
	now     [][]uint64 // the newest state
	clocks  []clock
}

// clock is how far the machine's clock was off, from a moment on.
type clock struct {
	off  time.Duration
	from time.Time
}

// change is one record's worth of a write. All its times are the true ones, whatever
// the machine's clock said.
type change struct {
	begun, acked time.Time // acked is zero if it never was
}

func (h *History) init(disks int) {
	h.now, h.sums, h.clocks = make([][]uint64, disks), [][]uint64{make([]uint64, disks)}, []clock{{}}
}

// sum of one cell; a disk's is that of its cells, so that it follows each change.
func sum(cell int, value uint64) uint64 {
	if value == 0 {
		return 0
	}
	x := value*0x9e3779b97f4a7c15 ^ uint64(cell+1)*0xd1b54a32d192ed03
	x ^= x >> 32
	x *= 0xd6e8feb86659fd93
	return x ^ x>>32
}

func (h *History) grow(disk, cells int) {
	h.now[disk] = append(h.now[disk], make([]uint64, cells)...)
}

// add makes the next state.
func (h *History) add(c change, set func(sums []uint64)) int {
	sums := slices.Clone(h.sums[len(h.sums)-1])
	set(sums)
	h.changes, h.sums = append(h.changes, c), append(h.sums, sums)
	return len(h.changes) - 1
}

func (h *History) set(sums []uint64, disk, cell int, v uint64) {
	for len(h.now[disk]) <= cell {
		h.now[disk] = append(h.now[disk], 0)
	}
	sums[disk] += sum(cell, v) - sum(cell, h.now[disk][cell])
	h.now[disk][cell] = v
}

// submit notes a write's record and returns its number.
func (h *History) submit(disk, cell int, values []uint64) int {
	return h.add(change{begun: time.Now()}, func(sums []uint64) {
		for i, v := range values {
			h.set(sums, disk, cell+i, v)
		}
	})
}

func (h *History) acknowledge(changes []int) {
	for _, i := range changes {
		h.changes[i].acked = time.Now()
	}
}

// become makes what a disk holds the next state: after a power cut, or what was written
// behind the machine's back.
func (h *History) become(disk int, content []uint64) {
	at := time.Now()
	h.add(change{begun: at, acked: at}, func(sums []uint64) {
		for cell, v := range content {
			h.set(sums, disk, cell, v)
		}
	})
}

// States is how many there are; the newest is States()-1.
func (h *History) States() int { return len(h.sums) }

// Image is what some disks hold at a recovery point: bytes by the disk's number, nil for
// one that the point does not have.
type Image [][]byte

// Find looks for the first state from number from on that the image shows, at a moment
// that its time allows: everything acknowledged before it, nothing begun after it. near
// says what comes closest, where there is none.
func (h *History) Find(img Image, from int, at time.Time) (state int, near string) {
	sums, err := img.sums()
	if err != nil {
		return -1, err.Error()
	}
	near = h.nearest(img)
	for n := from; n < len(h.sums); n++ {
		if !img.same(sums, h.sums[n]) {
			continue
		}
		if why := h.mistimed(n, at); why != "" {
			near = fmt.Sprintf("state %d fits but for its time: %s", n, why)
			continue
		}
		return n, ""
	}
	return -1, near
}

// Equal reports whether two images are the same, byte for byte.
func (img Image) Equal(o Image) bool {
	return slices.EqualFunc(img, o, func(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) })
}

func (img Image) same(a, b []uint64) bool {
	for i := range img {
		if img[i] != nil && a[i] != b[i] {
			return false
		}
	}
	return true
}

// sums reads the cells of an image. A cell that does not hold one number is torn.
func (img Image) sums() ([]uint64, error) {
	sums := make([]uint64, len(img))
	for disk, b := range img {
		for cell := 0; cell*Cell < len(b); cell++ {
			c := b[cell*Cell : (cell+1)*Cell]
			if !bytes.Equal(c[8:], c[:Cell-8]) {
				return nil, fmt.Errorf("cell %d of disk %d is torn", cell, disk)
			}
			sums[disk] += sum(cell, binary.LittleEndian.Uint64(c))
		}
	}
	return sums, nil
}

// jumpBlur is how near to a write a jump of the clock makes its times worthless: more
// than the age of a frame.
const jumpBlur = time.Second

// mistimed says what state n breaks of the promise that a point's time makes; empty if
// nothing. The machine's clock may have read the time before or after any of its jumps,
// and a frame that one falls into promises nothing.
func (h *History) mistimed(n int, at time.Time) (why string) {
	for _, c := range h.clocks {
		broken := h.early(n, at.Add(-c.off))
		if broken == "" || n > 0 && c.from.Sub(h.changes[n-1].begun).Abs() < jumpBlur {
			return ""
		}
		why += fmt.Sprintf("(with the clock off by %v) %s; ", c.off, broken)
	}
	return strings.TrimSuffix(why, "; ")
}

func (h *History) early(n int, at time.Time) string {
	for i, c := range h.changes {
		switch {
		case i < n && c.begun.After(at):
			return fmt.Sprintf("write %d, begun %v after it, is in it", i, c.begun.Sub(at))
		case i >= n && !c.acked.IsZero() && c.acked.Before(at):
			return fmt.Sprintf("write %d, acknowledged %v before it, is not in it", i, at.Sub(c.acked))
		}
	}
	return ""
}

// nearest names the state that differs least from the image, and where.
func (h *History) nearest(Image) string {
	return fmt.Sprintf("it is none of %d states", len(h.sums))
}
