package hrl

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"
)

// Config describes a file to be made.
type Config struct {
	Kind       Kind
	RingBytes  int64 // bytes for entries; rounded down to a multiple of BlockSize
	StateBytes int64 // bytes for a state; rounded up to a multiple of BlockSize
	Boot       [16]byte
	State      []byte // carried over from an earlier file; nil if none
	Files      Files  // nil for the operating system's
}

// align: memory is dear, and a disk is written in whole blocks.
func (k Kind) align() int64 {
	if k == Memory {
		return MinAlign
	}
	return BlockSize
}

// Create makes a journal file, or replaces one. Until it returns without an error
// the path holds what it held before. A SpaceError comes before anything is written.
// On a disk every block is written once, so that the file's extents never change
// again: writing into blocks that are only reserved changes the file system's own
// data with every write, and a later reader could be sent elsewhere.
func Create(path string, c Config) error {
	h := Header{
		Kind:       c.Kind,
		RingBytes:  c.RingBytes &^ (BlockSize - 1),
		StateBytes: roundUp(c.StateBytes+StateSize, BlockSize),
		Align:      c.Kind.align(),
		Created:    time.Now().UTC(),
	}
	_, _ = rand.Read(h.ID[:]) // never fails
	if err := h.check(); err != nil {
		return fmt.Errorf("hrl: cannot make %s: %w", path, err)
	}
	if c.Files == nil {
		c.Files = system{}
	}
	temp := path + ".new"
	if err := errors.Join(ignoreMissing(c.Files.Remove(temp)), fill(temp, h, c)); err != nil {
		_ = c.Files.Remove(temp)
		if full := new(SpaceError); errors.As(err, &full) {
			full.Path = path
		}
		return err
	}
	if err := c.Files.Rename(temp, path); err != nil {
		_ = c.Files.Remove(temp)
		return fmt.Errorf("hrl: %w", err)
	}
	return c.Files.SyncDir(path)
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// fill makes the file under its temporary name and brings it to stable storage.
func fill(temp string, h Header, c Config) error {
	if err := c.Files.Create(temp, h.FileBytes()); err != nil {
		return fmt.Errorf("hrl: %w", err)
	}
	s, err := c.Files.Open(temp, c.Kind)
	if err != nil {
		return err
	}
	return errors.Join(format(s, h, c), s.Close())
}

func format(s Store, h Header, c Config) error {
	if c.Kind == Disk {
		if err := zero(s, h.FileBytes()); err != nil {
			return err
		}
	}
	b := aligned(BlockSize)
	h.PutAnchor(b, Anchor{Serial: 1, Generation: 1, Boot: c.Boot})
	if err := s.Write(b, h.anchorOffset(1)); err != nil {
		return err
	}
	if c.State != nil {
		if err := writeState(s, h, 1, 1, c.State); err != nil {
			return err
		}
	}
	clear(b)
	h.Put(b)
	return errors.Join(s.Write(b, 0), s.Sync())
}

func zero(s Store, n int64) error {
	const chunk = 4 << 20
	b := aligned(min(n, chunk))
	for off := int64(0); off < n; off += chunk {
		if err := s.Write(b[:min(n-off, chunk)], off); err != nil {
			return err
		}
	}
	return nil
}
