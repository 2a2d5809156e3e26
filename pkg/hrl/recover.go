package hrl

import (
	"fmt"
	"slices"
)

// Found is what an opened file held.
type Found struct {
	Entries []Entry // retained, oldest first
	End     End     // where the chain ended and why
	Mark    Mark    // how far frames were known to be released
	Boot    [16]byte
	State   []byte // nil if none was ever saved
	// Current says that the state was saved after the file was last opened: nothing
	// that happened since is missing from it unless its owner left it out.
	Current bool
}

// Open recovers a file and opens it for its only user. The errors that concern the
// file's content are ErrShort and the verdicts of ParseHeader, or ErrChecksum where no
// anchor is left.
func Open(path string, boot [16]byte) (*Ring, Found, error) { return OpenIn(nil, path, boot) }

// OpenIn is Open in another file system; nil for the operating system's.
func OpenIn(files Files, path string, boot [16]byte) (*Ring, Found, error) {
	if files == nil {
		files = system{}
	}
	h, err := readHeader(files, path)
	if err != nil {
		return nil, Found{}, err
	}
	s, err := files.Open(path, h.Kind)
	if err != nil {
		return nil, Found{}, err
	}
	r := &Ring{Header: h, path: path, store: s}
	found, err := r.recover(boot)
	if err != nil {
		s.Close()
		return nil, Found{}, err
	}
	return r, found, nil
}

// recover follows the steps in README.md.
func (r *Ring) recover(boot [16]byte) (Found, error) {
	im := &Image{Header: r.Header, s: r.store}
	a, err := im.NewestAnchor()
	if err != nil {
		return Found{}, fmt.Errorf("%s: %w: %w", r.path, ErrChecksum, err)
	}
	found := Found{Mark: Mark{Seq: a.Released, RingPos: a.RingPos, Closed: a.Closed}, Boot: a.Boot}
	r.anchor, r.mark, r.tail, r.floor = a, found.Mark, a.Head, a.Floor
	found.End = im.Walk(a, func(e Entry, _ []byte) bool {
		r.entries = append(r.entries, e)
		r.tail, r.prev = r.End(e), e.Pos
		return true
	})
	found.Entries = slices.Clone(r.entries)
	state, content := im.newestState()
	r.serial, found.State = state.Serial, content
	found.Current = content != nil && state.Generation == a.Generation

	r.anchor.Generation++
	r.anchor.Boot = boot
	return found, r.Sync()
}

// Cut drops every entry from e on, for good: its header is blanked, so that no later
// recovery finds it, and a new generation begins, so that nothing that follows it in
// the file is ever taken for what follows its successor.
func (r *Ring) Cut(e Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.entries, e)
	if i < 0 {
		return nil
	}
	if m := r.store.Mapped(r.offset(e.Pos), EntrySize); m != nil {
		clear(m)
	} else if err := r.store.Write(aligned(BlockSize), r.offset(e.Pos)); err != nil {
		return err
	}
	r.tail, r.prev = e.Pos, e.Prev
	r.entries = r.entries[:i]
	r.anchor.Generation++
	return r.writeAnchor()
}
