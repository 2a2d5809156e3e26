package capture

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// originPin is the pinned map that holds the Origin, as JSON in pieces.
const originPin = "origin"

const originPiece = 4096

var errNoOrigin = errors.New("capture: it was not begun early")

func (s *source) readOrigin() (o Origin, err error) {
	m := s.maps[originPin]
	if m == nil {
		return o, errNoOrigin
	}
	var text []byte
	for i := range m.MaxEntries() {
		piece, err := m.LookupBytes(i)
		if err != nil {
			return o, fmt.Errorf("capture: reading how it began: %w", err)
		}
		text = append(text, piece...)
	}
	if err := json.Unmarshal(bytes.TrimRight(text, "\x00"), &o); err != nil {
		return o, fmt.Errorf("capture: how it began cannot be read: %w", err)
	}
	return o, nil
}

// keepOrigin pins it beside what it is of, in the place of an earlier one.
func (s *source) keepOrigin(o Origin) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	m, err := originMap(text)
	if err != nil {
		return fmt.Errorf("capture: keeping how it began: %w", err)
	}
	path := filepath.Join(s.dir, "live", "maps", originPin)
	if err := errors.Join(ignoreMissing(os.Remove(path)), m.Pin(path)); err != nil {
		_ = m.Close()
		return fmt.Errorf("capture: keeping how it began: %w", err)
	}
	if old := s.maps[originPin]; old != nil {
		_ = old.Close()
	}
	s.maps[originPin] = m
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// originMap is a map with the text that nobody can change.
func originMap(text []byte) (*ebpf.Map, error) {
	n := (len(text) + originPiece - 1) / originPiece
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: originPin, Type: ebpf.Array, KeySize: 4, ValueSize: originPiece, MaxEntries: uint32(n),
	})
	if err != nil {
		return nil, err
	}
	text = append(text, make([]byte, n*originPiece-len(text))...)
	for i := range n {
		if err := m.Put(uint32(i), text[i*originPiece:][:originPiece]); err != nil {
			_ = m.Close()
			return nil, err
		}
	}
	if err := m.Freeze(); err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}
