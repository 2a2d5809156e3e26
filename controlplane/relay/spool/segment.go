package spool

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/understudy-dr/understudy/pkg/frame"
)

// segment is one file of the spool.
type segment struct {
	id   uint64
	path string
	file *os.File
	size int64 // of the file, bytes: what it costs on disk
	used int64 // where the next entry goes

	live      int   // entries not freed; guarded by Spool.mu
	liveBytes int64 // of them
}

// gatherSize is how much is copied together for one write; frames above it go out as
// they are.
const gatherSize = 64 << 10

func segmentPath(dir string, id uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x.spool", id))
}

// createSegment makes the file whole before it gets its name: allocated (a full disk
// shows here and not under a frame), headed by the positions, synced, renamed, and
// the directory synced.
func createSegment(dir string, id uint64, size int64, positions []Positions, now time.Time) (*segment, error) {
	final := segmentPath(dir, id)
	f, err := os.OpenFile(final+".tmp", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	s := &segment{id: id, path: final, file: f, size: size}
	if err := s.prepare(dir, size, positions, now); err != nil {
		_ = f.Close()
		_ = os.Remove(final + ".tmp")
		return nil, err
	}
	return s, nil
}

func (s *segment) prepare(dir string, size int64, positions []Positions, now time.Time) error {
	head := appendFileHead(nil, s.id, now)
	body := appendPositions(nil, positions)
	head = appendEntryHead(head, s.id, entryHeader{kind: kindPositions, size: len(body), sum: checksum(body)})
	head = append(head, body...)
	s.used = fileHead + entrySize(len(body))
	if s.used > size {
		return fmt.Errorf("spool: a segment of %d bytes is too small for the positions of %d machines", size, len(positions))
	}
	if err := allocate(s.file, size); err != nil {
		return err
	}
	if _, err := s.file.WriteAt(head, 0); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	if err := os.Rename(s.path+".tmp", s.path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// fits reports whether an entry with n bytes of body still goes into the segment.
func (s *segment) fits(n int) bool { return s.used+entrySize(n) <= s.size }

// write puts frames behind each other from s.used on, without syncing, and returns
// where each body begins. Small ones are gathered into one write.
func (s *segment) write(frames [][]byte) ([]int64, error) {
	at := make([]int64, len(frames))
	var gather []byte
	off := s.used // where gather begins
	put := func(b []byte) error {
		_, err := s.file.WriteAt(b, off)
		off += int64(len(b))
		return err
	}
	for i, raw := range frames {
		gather = appendEntryHead(gather, s.id, entryHeader{kind: kindFrame, size: len(raw)})
		at[i] = off + int64(len(gather))
		if len(raw) > gatherSize {
			if err := put(gather); err != nil {
				return nil, err
			}
			if err := put(raw); err != nil {
				return nil, err
			}
			gather = gather[:0]
		} else {
			gather = append(gather, raw...)
		}
		gather = append(gather, make([]byte, padded(len(raw))-int64(len(raw)))...)
		if len(gather) >= gatherSize {
			if err := put(gather); err != nil {
				return nil, err
			}
			gather = gather[:0]
		}
	}
	if err := put(gather); err != nil {
		return nil, err
	}
	s.used = off
	return at, nil
}

// found is what a scan yields of a segment.
type found struct {
	positions []Positions
	frames    []foundFrame
	end       int64 // behind the last good entry
	torn      error // what was at end, if not zeros or the end of the file
	skipped   int   // frames whose checksum is wrong though good entries follow
}

type foundFrame struct {
	header frame.Header
	mark   *frame.Mark
	off    int64
}

// openSegment opens a file left by an earlier process and judges its header.
func openSegment(path string) (*segment, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	head := make([]byte, fileHead)
	_, err = io.ReadFull(io.NewSectionReader(f, 0, fileHead), head)
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		var id uint64
		if id, err = parseFileHead(head); err == nil {
			return &segment{id: id, path: path, file: f, size: st.Size()}, nil
		}
	}
	_ = f.Close()
	return nil, fmt.Errorf("%s: %w", path, err)
}

// scan reads every entry. A frame with a wrong checksum behind a good entry header is
// stepped over: whether it is a torn tail or rot shows in what follows.
func (s *segment) scan() (found, error) {
	out := found{end: fileHead}
	var body []byte
	head := make([]byte, entryHead)
	bad := 0 // since the last good entry
	for off := int64(fileHead); ; {
		n, err := s.file.ReadAt(head, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return out, err
		}
		if n < entryHead {
			return out, nil
		}
		h, err := parseEntryHead(head, s.id)
		if errors.Is(err, errEnd) {
			return out, nil
		}
		if err == nil && (h.size > max(frame.MaxSize, maxPositions*positionSize) || off+entrySize(h.size) > s.size) {
			err = fmt.Errorf("%w: an entry of %d bytes", ErrDamaged, h.size)
		}
		if err != nil {
			out.torn = err
			return out, nil
		}
		if cap(body) < h.size {
			body = make([]byte, h.size)
		}
		body = body[:h.size]
		if _, err := s.file.ReadAt(body, off+entryHead); err != nil {
			return out, err
		}
		next := off + entrySize(h.size)
		if err := out.take(h, body, off+entryHead); err != nil {
			out.torn = err
			bad++
		} else {
			out.skipped += bad
			out.end, out.torn, bad = next, nil, 0
		}
		off = next
	}
}

// take judges one entry's body.
func (f *found) take(h entryHeader, body []byte, off int64) error {
	switch h.kind {
	case kindPositions:
		if checksum(body) != h.sum {
			return fmt.Errorf("%w: checksum of the positions", ErrDamaged)
		}
		p, err := parsePositions(body)
		f.positions = p
		return err
	case kindFrame:
		fr, err := frame.Parse(body)
		if err != nil {
			return err
		}
		ff := foundFrame{header: fr.Header, off: off}
		if fr.Kind == frame.KindMark {
			m, err := fr.Mark()
			if err != nil {
				return err
			}
			ff.mark = &m
		}
		f.frames = append(f.frames, ff)
		return nil
	}
	return fmt.Errorf("%w: entry of kind %d", ErrDamaged, h.kind)
}

// cut ends the file behind its last good entry, for good.
func (s *segment) cut(end int64) error {
	if err := s.file.Truncate(end); err != nil {
		return err
	}
	s.size, s.used = end, end
	return s.file.Sync()
}
