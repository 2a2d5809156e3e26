package capture

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture/bpf"
)

// A record's header in the ring, before its first byte: length and flags, then
// where the ring's own page lies.
const (
	ringHeader  = 8
	ringBusy    = 1 << 31
	ringDiscard = 1 << 30
)

// ring is the BPF ring buffer, mapped and consumed in place. The kernel maps its
// data twice in a row, so that a record never wraps.
type ring struct {
	head []byte // the consumer's page, writable
	body []byte // the producer's page and the data, twice
	data []byte
	mask uint64
	at   uint64 // the next record to look at; between consumer and producer

	behind bool // the last Poll left what was reserved before it
	waker  *waker
}

func openRing(m *ebpf.Map) (*ring, error) {
	page, size := unix.Getpagesize(), int(m.MaxEntries())
	head, err := unix.Mmap(m.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping the ring's consumer page: %w", err)
	}
	body, err := unix.Mmap(m.FD(), int64(page), page+2*size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Munmap(head)
		return nil, fmt.Errorf("mapping the ring, %d bytes: %w", size, err)
	}
	r := &ring{head: head, body: body, data: body[page:], mask: uint64(size) - 1}
	r.at = r.consumer()
	if r.waker, err = newWaker(m.FD()); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *ring) close() {
	if r.waker != nil {
		r.waker.close()
	}
	_ = unix.Munmap(r.head)
	_ = unix.Munmap(r.body)
}

func (r *ring) size() uint64 { return r.mask + 1 }

// consumer is up to where the ring is free again.
func (r *ring) consumer() uint64 { return atomic.LoadUint64((*uint64)(unsafe.Pointer(&r.head[0]))) }

// producer is up to where the kernel has reserved.
func (r *ring) producer() uint64 { return atomic.LoadUint64((*uint64)(unsafe.Pointer(&r.body[0]))) }

func (r *ring) free(pos uint64) {
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&r.head[0])), pos)
}

// drop frees everything and goes on behind it. No program may be writing.
func (r *ring) drop() uint64 {
	r.at = r.producer()
	r.free(r.at)
	return r.at
}

// next is the record at r.at and the position after it; nil if there is none yet
// before end. Discarded reservations are passed over.
func (r *ring) next(end uint64) (record []byte, after uint64) {
	for r.at < end {
		at := r.at & r.mask
		length := atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.data[at])))
		if length&ringBusy != 0 {
			return nil, 0
		}
		n := uint64(length &^ (ringBusy | ringDiscard))
		after = r.at + (n+ringHeader+7)&^7
		if length&ringDiscard == 0 {
			from := at + ringHeader
			return r.data[from : from+n : from+n], after
		}
		r.at = after
	}
	return nil, 0
}

// recordHeader is the size of what the programs put before a record's data.
const recordHeader = uint64(unsafe.Sizeof(bpf.CaptureRecord{}))

// header views a record's first bytes as what they are. They are 8-byte aligned.
func header(record []byte) (*bpf.CaptureRecord, error) {
	if uint64(len(record)) < recordHeader {
		return nil, fmt.Errorf("capture: a record of %d bytes in the ring, at least %d expected: not written by these programs", len(record), recordHeader)
	}
	return (*bpf.CaptureRecord)(unsafe.Pointer(&record[0])), nil
}
