package hrl

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Errors of a ring.
var (
	ErrFull     = errors.New("hrl: the ring is full")
	ErrTooLarge = errors.New("hrl: larger than the ring can hold")
	ErrGone     = errors.New("hrl: the entry is no longer in the ring")
)

// Ring is an open journal file. One goroutine may append while others read and
// release.
type Ring struct {
	Header
	path  string
	store Store
	stage []byte // where an entry is put together for a file that is not mapped

	mu      sync.Mutex
	anchor  Anchor  // as last written
	entries []Entry // retained, in the order of the chain
	tail    Pos     // where the next entry goes
	prev    Pos     // the newest entry
	floor   uint64  // generation of the newest entry released
	mark    Mark
	serial  uint64 // of the newest state

	syncs    int64
	syncTime time.Duration
}

// Mark is how far frames have been released.
type Mark struct {
	Seq     block.Seq
	RingPos uint64 // capture position after the frame that ends at Seq
	Closed  int64  // that frame's closing time, unix ns; 0 if it is not known
}

// Usage is what a ring holds at the moment.
type Usage struct {
	Used, Size int64 // bytes
	Entries    int
	Syncs      int64
	SyncTime   time.Duration // spent in all of them together
}

// Append adds a frame with the capture position after it. When it returns the entry
// survives the process. ErrFull changes nothing; ErrTooLarge never fits.
func (r *Ring) Append(first, last block.Seq, ringPos uint64, frame []byte) (Entry, error) {
	e := Entry{First: first, Last: last, RingPos: ringPos, Len: len(frame)}
	if first == 0 || last < first || len(frame) == 0 {
		return Entry{}, fmt.Errorf("hrl: a frame [%d..%d] of %d bytes cannot be appended", first, last, len(frame))
	}
	if len(frame) > MaxFrame || r.span(e.Len) > r.RingBytes {
		return Entry{}, ErrTooLarge
	}
	e.Sum = r.sum(frame)
	if err := r.place(&e); err != nil {
		return Entry{}, err
	}
	if err := r.put(e, frame); err != nil {
		return Entry{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, e)
	r.tail, r.prev = r.End(e), e.Pos
	return e, nil
}

// place finds room for the entry. Space that was released becomes free only once an
// anchor beyond it is in the file: recovery would otherwise begin in the middle of
// what was written over it.
func (r *Ring) place(e *Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.span(e.Len)
	if !r.fits(r.tail, n) {
		if len(r.entries) > 0 && int64(r.nextLap(r.tail)-r.head())+n > r.RingBytes {
			return ErrFull
		}
		r.tail = r.nextLap(r.tail)
	}
	if int64(r.tail-r.head())+n > r.RingBytes {
		return ErrFull
	}
	e.Pos, e.Prev, e.Generation = r.tail, r.prev, r.anchor.Generation
	if int64(r.tail-r.anchor.Head)+n > r.RingBytes || len(r.entries) == 0 && r.anchor.Head != r.tail {
		return r.writeAnchor()
	}
	return nil
}

// head is where recovery should begin.
func (r *Ring) head() Pos {
	if len(r.entries) > 0 {
		return r.entries[0].Pos
	}
	return r.tail
}

// put writes the entry: in a mapping the header last, elsewhere in one piece.
func (r *Ring) put(e Entry, frame []byte) error {
	n, off := r.span(e.Len), r.offset(e.Pos)
	b := r.store.Mapped(off, n)
	staged := b == nil
	if staged {
		if int64(len(r.stage)) < n {
			r.stage = aligned(n)
		}
		b = r.stage[:n]
	}
	clear(b[EntrySize+copy(b[EntrySize:], frame):])
	r.PutEntry(b, e)
	if !staged {
		return nil
	}
	return r.store.Write(b, off)
}

// Read returns the entry's frame. In a mapped file it is the file's own memory: valid
// until the entry is released, and unchecked. Elsewhere it is a copy, and checked:
// ErrGone where the entry was released meanwhile, a verdict where the disk gives other
// bytes than were written.
func (r *Ring) Read(e Entry) ([]byte, error) {
	off, n := r.offset(e.Pos), r.span(e.Len)
	if m := r.store.Mapped(off, n); m != nil {
		return m[EntrySize : EntrySize+e.Len : EntrySize+e.Len], nil
	}
	b, err := r.store.Read(off, n, nil)
	if err != nil {
		return nil, err
	}
	got, err := r.ParseEntry(b)
	switch {
	case r.released(e):
		return nil, ErrGone
	case err != nil:
		return nil, fmt.Errorf("hrl: %s at %d: %w", r.path, off, err)
	case got != e:
		return nil, fmt.Errorf("hrl: %s at %d: %w", r.path, off, ErrStale)
	}
	frame := b[EntrySize : EntrySize+e.Len : EntrySize+e.Len]
	if r.sum(frame) != e.Sum {
		return nil, fmt.Errorf("hrl: %s at %d: %w", r.path, off, ErrPayload)
	}
	return frame, nil
}

func (r *Ring) released(e Entry) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return e.Pos < r.head()
}

// Release drops the entries up to the mark. Their space is free at once; that they
// are gone is written down at once where that costs nothing (mapped, or nothing is
// left), else when the space is needed.
func (r *Ring) Release(m Mark) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for n < len(r.entries) && r.entries[n].Last <= m.Seq {
		n++
	}
	if n > 0 {
		r.floor = r.entries[n-1].Generation
		r.entries = r.entries[n:]
	}
	r.mark = m
	if r.store.Mapped(0, 1) != nil || n > 0 && len(r.entries) == 0 {
		return r.writeAnchor()
	}
	return nil
}

// writeAnchor puts the present head and mark into the slot of the older anchor.
func (r *Ring) writeAnchor() error {
	a := r.anchor
	a.Serial++
	a.Head, a.Floor, a.Released, a.RingPos, a.Closed = r.head(), r.floor, r.mark.Seq, r.mark.RingPos, r.mark.Closed
	off := r.anchorOffset(a.Serial)
	if b := r.store.Mapped(off, BlockSize); b != nil {
		r.PutAnchor(b, a)
	} else {
		b := aligned(BlockSize)
		r.PutAnchor(b, a)
		if err := r.store.Write(b, off); err != nil {
			return err
		}
	}
	r.anchor = a
	return nil
}

// SaveState replaces the state. A crash in between leaves the one before.
func (r *Ring) SaveState(content []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if limit := r.StateBytes - StateSize; int64(len(content)) > limit {
		return fmt.Errorf("hrl: a state of %d bytes does not fit the %d of %s: %w", len(content), limit, r.path, ErrTooLarge)
	}
	if err := writeState(r.store, r.Header, r.serial+1, r.anchor.Generation, content); err != nil {
		return err
	}
	r.serial++
	return nil
}

func writeState(s Store, h Header, serial, generation uint64, content []byte) error {
	b := aligned(roundUp(StateSize+int64(len(content)), BlockSize))
	copy(b[StateSize:], content)
	h.PutStateHeader(b, StateHeader{Serial: serial, Generation: generation, Len: len(content), Sum: h.sum(content)})
	return s.Write(b, h.stateOffset(serial))
}

// Sync writes the anchor and brings everything to stable storage.
func (r *Ring) Sync() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.writeAnchor(); err != nil {
		return err
	}
	begin := time.Now()
	err := r.store.Sync()
	r.syncs++
	r.syncTime += time.Since(begin)
	return err
}

// Close writes the anchor and closes the file. Slices of a mapped file must not be
// touched any more.
func (r *Ring) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.writeAnchor(), r.store.Close())
}

// Abandon closes the file of a mapped ring and leaves the mapping, for the process's
// life, to those who still hold slices of it.
func (r *Ring) Abandon() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.writeAnchor(), r.store.Leave())
}

// Usage tells what the ring holds.
func (r *Ring) Usage() Usage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Usage{
		Used: int64(r.tail - r.head()), Size: r.RingBytes, Entries: len(r.entries),
		Syncs: r.syncs, SyncTime: r.syncTime,
	}
}

// Path is where the file lies.
func (r *Ring) Path() string { return r.path }
