package spool

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/understudy-dr/understudy/pkg/frame"
)

// segment is one file of the spool.
type segment struct {
	id   uint64
	path string
	file File
	size int64 // of the file, bytes: what it costs on disk
	used int64 // where the next entry goes

	live      int   // entries not freed; guarded by Spool.mu
	liveBytes int64 // of them
}

func segmentPath(dir string, id uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x.spool", id))
}

// createSegment makes the file whole before it gets its name: allocated (a full disk
// shows here and not under a frame) unless it was used before, headed by the
// positions, synced, renamed, and the directory synced. used is the path of a file to
// use again, or empty.
func createSegment(files Files, dir string, id uint64, size int64, used string, positions []Positions, now time.Time) (*segment, error) {
	final := segmentPath(dir, id)
	unfinished := used
	if used == "" {
		unfinished = final + ".tmp"
	}
	f, err := files.Open(unfinished, true)
	if err != nil {
		return nil, err
	}
	s := &segment{id: id, path: final, file: f, size: size}
	err = s.prepare(used == "", positions, now)
	if err == nil {
		err = files.Rename(unfinished, final)
	}
	if err != nil {
		_ = f.Close()
		_ = files.Remove(unfinished)
		return nil, err
	}
	return s, files.SyncDir(dir)
}

// prepare brings the file to stable storage, all but its name.
func (s *segment) prepare(fresh bool, positions []Positions, now time.Time) error {
	head := appendFileHead(nil, s.id, now)
	body := appendPositions(nil, positions)
	head = appendEntryHead(head, s.id, entryHeader{kind: kindPositions, size: len(body), sum: checksum(body)})
	head = appendPadding(append(head, body...), 0, s.id)
	s.used = int64(len(head))
	if s.used > s.size/2 {
		return fmt.Errorf("spool: a segment of %d bytes is too small for the positions of %d machines", s.size, len(positions))
	}
	if fresh {
		if err := s.file.Allocate(s.size); err != nil {
			return err
		}
	}
	if _, err := s.file.WriteAt(head, 0); err != nil {
		return err
	}
	return s.file.Sync()
}

// room is how many bytes of entries still go into the segment; the last page is kept
// for the end entry.
func (s *segment) room() int64 { return s.size - pageSize - s.used }

// fits reports whether an entry with n bytes of body still goes into the segment.
func (s *segment) fits(n int) bool { return entrySize(n) <= s.room() }

// write puts frames behind each other from s.used on, without syncing, and returns
// where each body begins. stage is the caller's memory for it.
func (s *segment) write(frames [][]byte, stage []byte) ([]int64, error) {
	at := make([]int64, len(frames))
	g := gatherer{file: s.file, off: s.used, buf: stage[:0]}
	var zeros [8]byte
	for i, raw := range frames {
		g.add(appendEntryHead(nil, s.id, entryHeader{kind: kindFrame, size: len(raw)}))
		at[i] = g.at()
		g.add(raw)
		g.add(zeros[:padded(len(raw))-int64(len(raw))])
	}
	g.add(appendPadding(nil, g.at(), s.id))
	g.flush()
	if g.err != nil {
		return nil, g.err
	}
	s.used = g.off
	return at, nil
}

// end says that no more entries follow at, for good.
func (s *segment) end(at int64) error {
	if at+entryHead > s.size {
		return nil // no room: the end of the file is as good
	}
	_, err := s.file.WriteAt(appendEntryHead(nil, s.id, entryHeader{kind: kindEnd}), at)
	if err != nil {
		return err
	}
	return s.file.SyncData()
}

// found is what a scan yields of a segment.
type found struct {
	positions []Positions
	frames    []foundFrame
	end       int64 // behind the last good entry
	ended     bool  // by an end entry, or by the file's end
	bad       error // the first entry that did not verify, if any
}

type foundFrame struct {
	header frame.Header
	mark   *frame.Mark
	off    int64
}

// openSegment opens a file left by an earlier process and judges its header.
func openSegment(files Files, path string) (*segment, error) {
	f, err := files.Open(path, false)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	head := make([]byte, fileHead)
	n, err := io.ReadFull(io.NewSectionReader(f, 0, fileHead), head)
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		var id uint64
		if id, err = parseFileHead(head[:n]); err == nil {
			return &segment{id: id, path: path, file: f, size: size}, nil
		}
	}
	_ = f.Close()
	return nil, fmt.Errorf("%s: %w", path, err)
}

// scan reads entries up to the end. Where the newest segment is scanned, the first
// entry that does not verify is the end: it, and all behind it, may be of a group that
// was never synced. In older ones it is damage and stepped over.
func (s *segment) scan(newest bool) (found, error) {
	out := found{end: fileHead}
	var body []byte
	head := make([]byte, entryHead)
	for off := int64(fileHead); ; {
		n, err := s.file.ReadAt(head, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return out, err
		}
		if n < entryHead {
			out.ended = true
			return out, nil
		}
		h, err := parseEntryHead(head, s.id)
		switch {
		case err != nil:
			return out, nil
		case h.kind == kindEnd:
			out.ended = true
			return out, nil
		case h.size > max(frame.MaxSize, maxPositions*positionSize) || off+entrySize(h.size) > s.size:
			out.bad = fmt.Errorf("%w: an entry of %d bytes", ErrDamaged, h.size)
			return out, nil
		}
		if cap(body) < h.size {
			body = make([]byte, h.size)
		}
		body = body[:h.size]
		if _, err := s.file.ReadAt(body, off+entryHead); err != nil {
			return out, err
		}
		if err := out.take(h, body, off+entryHead); err != nil {
			if out.bad = errors.Join(out.bad, err); newest {
				return out, nil
			}
		}
		off += entrySize(h.size)
		out.end = off
	}
}

// take judges one entry's body.
func (f *found) take(h entryHeader, body []byte, off int64) error {
	switch h.kind {
	case kindPadding:
		return nil
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
