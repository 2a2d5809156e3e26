package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// logStream appends records of varying length to one file with fdatasync after each,
// as a database's log does.
type logStream struct{ fs string }

func (s logStream) name() string { return s.fs + "/log" }

func (s logStream) on() []string { return []string{s.fs} }

func (s logStream) size(n uint64) int64 { return int64(64 + spread(s.name(), n, 6000)) }

func (s logStream) path(m mounts) string { return filepath.Join(m[s.fs], "app.log") }

func (s logStream) open(m mounts, done uint64) (writer, error) {
	f, err := os.OpenFile(s.path(m), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	w := &logWriter{s: s, f: f}
	for n := uint64(1); n <= done; n++ {
		w.end += s.size(n)
	}
	return w, syncDir(m[s.fs])
}

type logWriter struct {
	s   logStream
	f   *os.File
	end int64
}

func (w *logWriter) Close() error { return w.f.Close() }

func (w *logWriter) write(n uint64) error {
	b := content(make([]byte, w.s.size(n)), w.s.name(), n)
	if _, err := w.f.WriteAt(b, w.end); err != nil {
		return err
	}
	w.end += int64(len(b))
	return unix.Fdatasync(int(w.f.Fd()))
}

// prefix counts the records. Behind them there may be a torn one that was never
// acknowledged, but no record after a hole.
func (s logStream) prefix(m mounts) (uint64, error) {
	b, err := readIfThere(s.path(m))
	if err != nil {
		return 0, err
	}
	var found uint64
	for n, off := uint64(1), int64(0); off+contentHeader <= int64(len(b)); n++ {
		end := min(off+s.size(n), int64(len(b)))
		want := content(make([]byte, s.size(n)), s.name(), n)
		whole := bytes.Equal(want, b[off:end])
		if whole && found < n-1 {
			return 0, fmt.Errorf("%s holds record %d, but record %d is missing or damaged", s.name(), n, found+1)
		}
		if whole {
			found = n
		}
		off = end
	}
	return found, nil
}
