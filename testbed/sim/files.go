package sim

import (
	"io"
	"io/fs"

	"github.com/understudy-dr/understudy/controlplane/relay/spool"
	"github.com/understudy-dr/understudy/pkg/hrl"
)

// spoolFiles is a relay process's view of its spool's file system.
type spoolFiles struct {
	*process
	m *media
	// lie makes syncs return without syncing: a mutant.
	lie bool
}

func (s spoolFiles) MkdirAll(string) error { return s.alive() }

func (s spoolFiles) ReadDir(dir string) ([]fs.DirEntry, error) { return s.m.list(dir), s.alive() }

func (s spoolFiles) Open(path string, create bool) (spool.File, error) {
	f := spoolFile{spoolFiles: s, path: path}
	err := s.effect(func() (err error) {
		s.m.mu.Lock()
		defer s.m.mu.Unlock()
		if s.m.files[path] == nil && create {
			s.m.name(naming{to: path, f: &inode{pages: map[int64][]byte{}}})
		}
		f.f, err = s.m.find(path)
		return err
	})
	return f, err
}

func (s spoolFiles) Rename(from, to string) error {
	return s.effect(func() error { return s.m.rename(from, to) })
}

func (s spoolFiles) Remove(path string) error {
	return s.effect(func() error { return s.m.remove(path) })
}

func (s spoolFiles) SyncDir(string) error { return s.effect(s.m.syncDir) }

// spoolFile is an open segment.
type spoolFile struct {
	spoolFiles
	path string
	f    *inode
}

func (f spoolFile) Name() string         { return f.path }
func (f spoolFile) Close() error         { return nil }
func (f spoolFile) Size() (int64, error) { return f.f.size, f.alive() }

func (f spoolFile) ReadAt(b []byte, off int64) (int, error) {
	n := f.m.read(f.f, b, off)
	if err := f.alive(); err != nil || n == len(b) {
		return n, err
	}
	return n, io.EOF
}

func (f spoolFile) WriteAt(b []byte, off int64) (int, error) {
	return len(b), f.effect(func() error { f.m.write(f.f, b, off); return nil })
}

func (f spoolFile) Allocate(n int64) error {
	return f.effect(func() error {
		f.m.mu.Lock()
		defer f.m.mu.Unlock()
		if err := f.m.room(n - f.f.size); err != nil {
			return err
		}
		f.f.size = max(f.f.size, n)
		return nil
	})
}

func (f spoolFile) Sync() error { return f.SyncData() }

func (f spoolFile) SyncData() error {
	return f.effect(func() error {
		if f.lie {
			return nil
		}
		return f.m.sync(f.f)
	})
}

// journalFiles is an agent process's view of the file systems of its journal.
type journalFiles struct {
	*process
	ram, disk *media
	mapped    int64 // bytes at the end of the memory stage's file: its ring
}

func (j journalFiles) on(path string) *media {
	if path[:len(ramDir)] == ramDir {
		return j.ram
	}
	return j.disk
}

// The places of a journal.
const (
	ramDir    = "/run/agent"
	spillPath = "/var/agent/spill.hrl"
	spoolDir  = "/var/spool"
)

func (j journalFiles) Head(path string) ([]byte, int64, error) {
	m := j.on(path)
	m.mu.Lock()
	f, err := m.find(path)
	m.mu.Unlock()
	if err != nil {
		return nil, 0, err
	}
	b := make([]byte, hrl.HeaderSize)
	return b[:m.read(f, b, 0)], f.size, j.alive()
}

func (j journalFiles) Create(path string, size int64) error {
	return j.effect(func() error { return j.on(path).create(path, size) })
}

func (j journalFiles) Rename(from, to string) error {
	return j.effect(func() error { return j.on(from).rename(from, to) })
}

func (j journalFiles) Remove(path string) error {
	return j.effect(func() error { return j.on(path).remove(path) })
}

func (j journalFiles) SyncDir(path string) error {
	return j.effect(func() error { return j.on(path).syncDir() })
}

func (j journalFiles) Open(path string, kind hrl.Kind) (hrl.Store, error) {
	m := j.on(path)
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.find(path)
	if err != nil {
		return nil, err
	}
	s := journalFile{journalFiles: j, m: m, f: f}
	if kind == hrl.Disk {
		return s, nil
	}
	if f.mapped == nil {
		f.mapped = make([]byte, j.mapped)
	}
	return mappedFile{s}, nil
}

// journalFile is the disk stage's file.
type journalFile struct {
	journalFiles
	m *media
	f *inode
}

func (s journalFile) Mapped(int64, int64) []byte { return nil }
func (s journalFile) Close() error               { return nil }
func (s journalFile) Leave() error               { return nil }

func (s journalFile) Read(off, n int64, buf []byte) ([]byte, error) {
	if int64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	if s.m.read(s.f, buf[:n], off) < int(n) {
		return nil, io.ErrUnexpectedEOF
	}
	return buf[:n], s.alive()
}

func (s journalFile) Write(b []byte, off int64) error {
	return s.effect(func() error { s.m.write(s.f, b, off); return nil })
}

func (s journalFile) Sync() error { return s.effect(func() error { return s.m.sync(s.f) }) }

// mappedFile is the memory stage's: its ring, and any one page, is memory that survives
// the process as it is.
type mappedFile struct{ journalFile }

func (s mappedFile) Mapped(off, n int64) []byte {
	_ = s.effect(func() error { return nil }) // a moment to die at
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if at := off - (s.f.size - int64(len(s.f.mapped))); at >= 0 {
		return s.f.mapped[at : at+n : at+n]
	}
	p := s.f.touch(off / pageSize)
	at := off % pageSize
	return p[at : at+n : at+n]
}

func (s mappedFile) Sync() error { return nil }
