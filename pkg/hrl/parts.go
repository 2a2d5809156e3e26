package hrl

import (
	"fmt"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Anchor, state header and entry share their first eight bytes: magic, checksum.

func (h Header) seal(b []byte, magic string) {
	copy(b, magic)
	le.PutUint32(b[4:], 0)
	le.PutUint32(b[4:], sumAround(h.seed(), b, 4))
}

func (h Header) unseal(b []byte, size int, magic string) error {
	if err := identify(b, size, magic); err != nil {
		return err
	}
	if !sealed(h.seed(), b[:size], 4) {
		return ErrChecksum
	}
	return nil
}

// PutAnchor encodes the anchor into the first AnchorSize bytes of b.
func (h Header) PutAnchor(b []byte, a Anchor) {
	b = b[:AnchorSize]
	le.PutUint64(b[8:], a.Serial)
	le.PutUint64(b[16:], a.Generation)
	le.PutUint64(b[24:], a.Floor)
	le.PutUint64(b[32:], uint64(a.Head))
	le.PutUint64(b[40:], uint64(a.Released))
	le.PutUint64(b[48:], a.RingPos)
	copy(b[56:], a.Boot[:])
	le.PutUint64(b[72:], uint64(a.Closed))
	h.seal(b, anchorMagic)
}

// ParseAnchor decodes an anchor of this file.
func (h Header) ParseAnchor(b []byte) (Anchor, error) {
	if err := h.unseal(b, AnchorSize, anchorMagic); err != nil {
		return Anchor{}, err
	}
	a := Anchor{
		Serial:     le.Uint64(b[8:]),
		Generation: le.Uint64(b[16:]),
		Floor:      le.Uint64(b[24:]),
		Head:       Pos(le.Uint64(b[32:])),
		Released:   block.Seq(le.Uint64(b[40:])),
		RingPos:    le.Uint64(b[48:]),
		Boot:       [16]byte(b[56:72]),
		Closed:     int64(le.Uint64(b[72:])),
	}
	if a.Serial == 0 || a.Generation == 0 || a.Head > MaxPos || int64(a.Head)%h.Align != 0 {
		return Anchor{}, fmt.Errorf("%w: anchor %+v", ErrLimit, a)
	}
	return a, nil
}

// PutStateHeader encodes the header into the first StateSize bytes of b.
func (h Header) PutStateHeader(b []byte, s StateHeader) {
	b = b[:StateSize]
	le.PutUint64(b[8:], s.Serial)
	le.PutUint64(b[16:], s.Generation)
	le.PutUint32(b[24:], uint32(s.Len))
	le.PutUint32(b[28:], s.Sum)
	h.seal(b, stateMagic)
}

// ParseStateHeader decodes the header of a state of this file.
func (h Header) ParseStateHeader(b []byte) (StateHeader, error) {
	if err := h.unseal(b, StateSize, stateMagic); err != nil {
		return StateHeader{}, err
	}
	s := StateHeader{
		Serial:     le.Uint64(b[8:]),
		Generation: le.Uint64(b[16:]),
		Len:        int(le.Uint32(b[24:])),
		Sum:        le.Uint32(b[28:]),
	}
	if s.Serial == 0 || s.Generation == 0 || int64(s.Len) > h.StateBytes-StateSize {
		return StateHeader{}, fmt.Errorf("%w: state %+v", ErrLimit, s)
	}
	return s, nil
}

// PutEntry encodes the entry header into the first EntrySize bytes of b.
func (h Header) PutEntry(b []byte, e Entry) {
	b = b[:EntrySize]
	le.PutUint64(b[8:], e.Generation)
	le.PutUint64(b[16:], uint64(e.Pos))
	le.PutUint64(b[24:], uint64(e.Prev))
	le.PutUint64(b[32:], uint64(e.First))
	le.PutUint64(b[40:], uint64(e.Last))
	le.PutUint64(b[48:], e.RingPos)
	le.PutUint32(b[56:], uint32(e.Len))
	le.PutUint32(b[60:], e.Sum)
	h.seal(b, entryMagic)
}

// ParseEntry decodes the header of an entry of this file.
func (h Header) ParseEntry(b []byte) (Entry, error) {
	if err := h.unseal(b, EntrySize, entryMagic); err != nil {
		return Entry{}, err
	}
	e := Entry{
		Generation: le.Uint64(b[8:]),
		Pos:        Pos(le.Uint64(b[16:])),
		Prev:       Pos(le.Uint64(b[24:])),
		First:      block.Seq(le.Uint64(b[32:])),
		Last:       block.Seq(le.Uint64(b[40:])),
		RingPos:    le.Uint64(b[48:]),
		Len:        int(le.Uint32(b[56:])),
		Sum:        le.Uint32(b[60:]),
	}
	switch {
	case e.Generation == 0, e.First == 0, e.Last < e.First, e.Len == 0, e.Len > MaxFrame,
		e.Pos > MaxPos, int64(e.Pos)%h.Align != 0, !h.fits(e.Pos, h.span(e.Len)):
		return Entry{}, fmt.Errorf("%w: entry %+v", ErrLimit, e)
	}
	return e, nil
}

// End is the first position after the entry.
func (h Header) End(e Entry) Pos { return e.Pos + Pos(h.span(e.Len)) }
