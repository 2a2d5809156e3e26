package sim

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/pkg/hrl"
)

const (
	pageSize = 4096
	sector   = 512
)

// media is a file system that one of our own processes writes to. It knows what of it
// is on stable storage: when the power is cut, each sector written since the last sync
// is there or not, whatever its neighbours are, and so is each name.
type media struct {
	mu       sync.Mutex
	files    map[string]*inode
	stable   map[string]*inode // the names on stable storage
	unsynced []naming          // what happened to them since
	capacity int64             // bytes; 0 for no bound
}

// inode is a file: pages, and behind them a stretch that is mapped as a whole.
type inode struct {
	size   int64
	pages  map[int64][]byte // by number; one that is missing is zeros
	before map[int64][]byte // what stable storage has of pages written since
	mapped []byte           // the end of the file, if its owner maps it
}

func newMedia() *media { return &media{files: map[string]*inode{}, stable: map[string]*inode{}} }

// bound limits the file system; 0 lifts the bound.
func (m *media) bound(capacity int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = capacity
}

// room reports whether n more bytes may be allocated. mu is held.
func (m *media) room(n int64) error {
	if m.capacity == 0 {
		return nil
	}
	for _, f := range m.files {
		n += f.size
	}
	if n > m.capacity {
		return syscall.ENOSPC
	}
	return nil
}

// clone is what the next process finds where this one was killed: from here on, what the
// dead one still writes into mapped memory is not seen.
func (m *media) clone() *media {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := newMedia()
	c.capacity = m.capacity
	for name, f := range m.files {
		c.files[name] = f.clone()
	}
	c.stable = maps.Clone(c.files)
	return c
}

func (f *inode) clone() *inode {
	c := &inode{size: f.size, pages: make(map[int64][]byte, len(f.pages)), mapped: slices.Clone(f.mapped)}
	for n, p := range f.pages {
		c.pages[n] = slices.Clone(p)
	}
	return c
}

// powerCut leaves what was stable, and of the rest what chance will: file systems keep
// the order of names, and none of bytes.
func (m *media) powerCut(rng *rand.Rand) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files = m.stable
	for _, c := range m.unsynced[:rng.IntN(len(m.unsynced)+1)] {
		c.apply(m.files)
	}
	m.stable, m.unsynced = maps.Clone(m.files), nil
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		m.files[name].powerCut(rng)
	}
}

// naming is one change of names.
type naming struct {
	from, to string // either may be empty
	f        *inode
}

func (n naming) apply(names map[string]*inode) {
	delete(names, n.from)
	if n.to != "" {
		names[n.to] = n.f
	}
}

// name changes names. mu is held.
func (m *media) name(n naming) {
	n.apply(m.files)
	m.unsynced = append(m.unsynced, n)
}

// powerCut mixes what was written since the last sync with what was there before.
func (f *inode) powerCut(rng *rand.Rand) {
	fate := rng.IntN(4) // all lost, all there, or page by page, or sector by sector
	for _, n := range slices.Sorted(maps.Keys(f.before)) {
		old, now, page := f.before[n], f.pages[n], rng.IntN(2) == 0
		for at := 0; at < pageSize; at += sector {
			switch lost := [...]bool{true, false, page, rng.IntN(2) == 0}[fate]; {
			case lost && old == nil:
				clear(now[at : at+sector])
			case lost:
				copy(now[at:at+sector], old[at:])
			}
		}
	}
	f.before = nil
}

func (m *media) find(name string) (*inode, error) {
	f := m.files[name]
	if f == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOENT}
	}
	return f, nil
}

func (m *media) create(name string, size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.room(size); err != nil {
		return &hrl.SpaceError{Path: name, Need: size}
	}
	m.name(naming{to: name, f: &inode{size: size, pages: map[int64][]byte{}}})
	return nil
}

func (m *media) rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.find(from)
	if err == nil {
		m.name(naming{from, to, f})
	}
	return err
}

func (m *media) remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.find(name); err != nil {
		return err
	}
	m.name(naming{from: name})
	return nil
}

// syncDir makes all names durable.
func (m *media) syncDir() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stable, m.unsynced = maps.Clone(m.files), nil
	return nil
}

func (m *media) sync(f *inode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.before = nil
	return nil
}

func (m *media) read(f *inode, b []byte, off int64) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	total := int(max(0, min(int64(len(b)), f.size-off)))
	for n := 0; n < total; {
		page, at := (off+int64(n))/pageSize, (off+int64(n))%pageSize
		part := b[n:min(total, n+int(pageSize-at))]
		if p := f.page(page); p != nil {
			copy(part, p[at:])
		} else {
			clear(part)
		}
		n += len(part)
	}
	return total
}

// page is a page's bytes; nil for zeros.
func (f *inode) page(n int64) []byte {
	if at := n*pageSize - (f.size - int64(len(f.mapped))); at >= 0 && len(f.mapped) > 0 {
		return f.mapped[at : at+pageSize]
	}
	return f.pages[n]
}

func (m *media) write(f *inode, b []byte, off int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.size = max(f.size, off+int64(len(b)))
	for len(b) > 0 {
		n, at := off/pageSize, off%pageSize
		part := b[:min(int64(len(b)), pageSize-at)]
		copy(f.touch(n)[at:], part)
		b, off = b[len(part):], off+int64(len(part))
	}
}

// touch is a page that is about to change: what stable storage has of it is kept.
func (f *inode) touch(n int64) []byte {
	now := f.page(n)
	if len(f.mapped) > 0 && now != nil {
		return now
	}
	if _, ok := f.before[n]; !ok {
		if f.before == nil {
			f.before = map[int64][]byte{}
		}
		f.before[n] = now
		f.pages[n] = make([]byte, pageSize)
		copy(f.pages[n], now)
	}
	return f.pages[n]
}

// list is a directory, by name.
func (m *media) list(dir string) []fs.DirEntry {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []fs.DirEntry
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		if strings.HasPrefix(name, dir+"/") {
			out = append(out, fs.FileInfoToDirEntry(info{path.Base(name), m.files[name].size}))
		}
	}
	return out
}

type info struct {
	name string
	size int64
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return 0o600 }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return false }
func (i info) Sys() any           { return nil }
func (i info) String() string     { return fmt.Sprintf("%s (%d bytes)", i.name, i.size) }
