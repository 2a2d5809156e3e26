package hrl

import (
	"errors"
	"fmt"
	"os"
)

// Image reads a journal file without changing it.
type Image struct {
	Header
	s Store

	window []byte // the stretch of the file last read by Walk
	begin  int64  // where it begins
}

// OpenImage opens a journal file for reading, also one that an agent is using: its
// parts are then each as they were at some moment.
func OpenImage(path string) (*Image, error) {
	h, err := readHeader(system{}, path)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("hrl: %w", err)
	}
	return &Image{Header: h, s: fileStore{f}}, nil
}

// readHeader reads the file header and holds the file's size against it.
func readHeader(files Files, path string) (Header, error) {
	head, size, err := files.Head(path)
	switch {
	case err != nil:
		return Header{}, fmt.Errorf("hrl: %w", err)
	case len(head) == 0:
		return Header{}, fmt.Errorf("hrl: %s: %w", path, ErrShort)
	}
	b := make([]byte, HeaderSize) // a short file's missing bytes read as zeros
	copy(b, head)
	h, err := ParseHeader(b)
	if err != nil {
		return Header{}, fmt.Errorf("hrl: %s: %w", path, err)
	}
	if size != h.FileBytes() {
		err = fmt.Errorf("hrl: %s: %w: %d bytes, its header says %d", path, ErrShort, size, h.FileBytes())
	}
	return h, err
}

// Close closes the file.
func (im *Image) Close() error { return im.s.Close() }

// Anchor reads the anchor in a slot, 0 or 1.
func (im *Image) Anchor(slot int) (Anchor, error) {
	b, err := im.s.Read(im.anchorOffset(uint64(slot)), BlockSize, nil)
	if err != nil {
		return Anchor{}, err
	}
	return im.ParseAnchor(b)
}

// State reads the state in a slot, 0 or 1, and checks its content.
func (im *Image) State(slot int) (StateHeader, []byte, error) {
	b, err := im.s.Read(im.stateOffset(uint64(slot)), BlockSize, nil)
	if err != nil {
		return StateHeader{}, nil, err
	}
	h, err := im.ParseStateHeader(b)
	if err != nil {
		return StateHeader{}, nil, err
	}
	b, err = im.s.Read(im.stateOffset(uint64(slot)), roundUp(StateSize+int64(h.Len), BlockSize), nil)
	if err != nil {
		return StateHeader{}, nil, err
	}
	content := b[StateSize : StateSize+h.Len]
	if im.sum(content) != h.Sum {
		return h, nil, ErrPayload
	}
	return h, append([]byte(nil), content...), nil
}

// NewestAnchor is the valid anchor with the higher serial.
func (im *Image) NewestAnchor() (Anchor, error) {
	a, errA := im.Anchor(0)
	b, errB := im.Anchor(1)
	switch {
	case errA != nil && errB != nil:
		return Anchor{}, fmt.Errorf("hrl: neither anchor can be read: %w; %w", errA, errB)
	case errB != nil || errA == nil && a.Serial > b.Serial:
		return a, nil
	}
	return b, nil
}

// newestState is the valid state with the higher serial; zero if none was ever whole.
func (im *Image) newestState() (StateHeader, []byte) {
	a, contentA, errA := im.State(0)
	b, contentB, errB := im.State(1)
	switch {
	case errA != nil && errB != nil:
		return StateHeader{}, nil
	case errB != nil || errA == nil && a.Serial > b.Serial:
		return a, contentA
	}
	return b, contentB
}

// End says where a walk ended and why.
type End struct {
	Pos Pos
	// Verdict is what lies there: ErrBlank or ErrStale after a whole tail, ErrNotHRL
	// where older content lies, ErrChecksum, ErrLimit or ErrPayload where an entry was
	// torn or damaged, or what reading the file gave.
	Verdict error
}

// Torn reports whether something that had been an entry lies at the end.
func (e End) Torn() bool {
	return errors.Is(e.Verdict, ErrChecksum) || errors.Is(e.Verdict, ErrPayload) || errors.Is(e.Verdict, ErrLimit)
}

// Walk calls fn with every entry from the anchor on, oldest first, until one is not
// the next of the chain or fn returns false. The frame is valid during the call.
func (im *Image) Walk(a Anchor, fn func(e Entry, frame []byte) bool) End {
	at, prev, generation := a.Head, Entry{}, a.Floor
	for {
		e, frame, err := im.entryAt(at)
		if err == nil && (e.Generation < generation || prev.Len > 0 && e.Prev != prev.Pos) {
			err = ErrStale
		}
		if lap := im.nextLap(at); err != nil && lap != at && prev.Len > 0 {
			// The entry may not have fitted before the ring's end.
			if wrapped, w, errW := im.entryAt(lap); errW == nil && wrapped.Generation >= generation && wrapped.Prev == prev.Pos {
				at, e, frame, err = lap, wrapped, w, nil
			}
		}
		if err == nil && im.End(e) > a.Head+Pos(im.RingBytes) {
			err = ErrStale // it overlaps the first: not of one ring
		}
		if err != nil {
			return End{Pos: at, Verdict: err}
		}
		at, prev, generation = im.End(e), e, e.Generation
		if !fn(e, frame) {
			return End{Pos: at}
		}
	}
}

// entryAt reads the entry at p and checks its content. The frame is valid until the
// next call.
func (im *Image) entryAt(p Pos) (Entry, []byte, error) {
	b, err := im.peek(im.offset(p), im.Align)
	if err != nil {
		return Entry{}, nil, err
	}
	e, err := im.ParseEntry(b)
	if err == nil && e.Pos != p {
		err = ErrStale
	}
	if err != nil {
		return Entry{}, nil, err
	}
	if b, err = im.peek(im.offset(p), im.span(e.Len)); err != nil {
		return Entry{}, nil, err
	}
	frame := b[EntrySize : EntrySize+e.Len]
	if im.sum(frame) != e.Sum {
		return Entry{}, nil, ErrPayload
	}
	return e, frame, nil
}

// peek returns n bytes at off, valid until the next call. It reads ahead: a ring of
// small entries would otherwise cost a read or two for each.
func (im *Image) peek(off, n int64) ([]byte, error) {
	if m := im.s.Mapped(off, n); m != nil {
		return m, nil
	}
	if at := off - im.begin; at >= 0 && at+n <= int64(len(im.window)) {
		return im.window[at : at+n], nil
	}
	const ahead = 1 << 20
	begin := off &^ (BlockSize - 1)
	size := min(max(roundUp(off-begin+n, BlockSize), ahead), im.FileBytes()-begin)
	w, err := im.s.Read(begin, size, im.window)
	if err != nil {
		im.window = nil
		return nil, err
	}
	im.window, im.begin = w, begin
	return w[off-begin:][:n], nil
}
