package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// renameStream replaces small files atomically: create, write, fsync, rename, fsync of
// the directory, as careful programs do with their configuration.
type renameStream struct{ fs string }

const renameFiles = 64

func (s renameStream) name() string { return s.fs + "/rename" }

func (s renameStream) on() []string { return []string{s.fs} }

func (s renameStream) at(n uint64) place { return place{s.fs, spread(s.name(), n, renameFiles)} }

func (s renameStream) open(m mounts, _ uint64) (writer, error) {
	dir, err := makeDir(m[s.fs], "renamed")
	return &renameWriter{s: s, dir: dir}, err
}

type renameWriter struct {
	s   renameStream
	dir string
}

func (w *renameWriter) Close() error { return nil }

func (w *renameWriter) write(n uint64) error {
	tmp := filepath.Join(w.dir, "tmp")
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	size := 64 + spread(w.s.name()+"/size", n, 24<<10)
	_, err = f.Write(content(make([]byte, size), w.s.name(), n))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, w.path(w.s.at(n))); err != nil {
		return err
	}
	return syncDir(w.dir)
}

func (w *renameWriter) path(p place) string {
	return filepath.Join(w.dir, fmt.Sprintf("file-%02d", p.slot))
}

func (s renameStream) prefix(m mounts) (uint64, error) {
	w := renameWriter{s: s, dir: filepath.Join(m[s.fs], "renamed")}
	holds := map[place]uint64{}
	for slot := range uint64(renameFiles) {
		p := place{s.fs, slot}
		b, err := os.ReadFile(w.path(p))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return 0, err
		}
		if len(b) < contentHeader {
			return 0, fmt.Errorf("%s: %s has only %d bytes", s.name(), w.path(p), len(b))
		}
		n, err := valueOf(b, s.name())
		if err != nil {
			return 0, fmt.Errorf("%s: %s %w", s.name(), w.path(p), err)
		}
		holds[p] = n
	}
	return prefixOfPlaces(s.name(), holds, s.at)
}
