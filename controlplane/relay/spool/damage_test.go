package spool

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// TestTornTail cuts the file's bytes off at every place within the last entries, and
// also lets garbage stand there: what was acknowledged before must come back, whole.
func TestTornTail(t *testing.T) {
	dir, p := t.TempDir(), newPlant(t)
	s, _ := open(t, dir, nil)
	put(t, s, p.frame(512), p.frame(1024))
	kept, at := len(p.raws), s.active.used
	put(t, s, p.frame(512))
	end := s.active.used
	path := s.active.path
	// As after a crash: the process is gone without an end entry.
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	for cut := at; cut <= end; cut += 7 {
		for _, fill := range []byte{0, 0xff} {
			damaged := bytes.Clone(whole[:end+64])
			for i := cut; i < int64(len(damaged)); i++ {
				damaged[i] = fill
			}
			again := filepath.Join(t.TempDir(), "spool")
			if err := os.MkdirAll(again, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(again, filepath.Base(path)), damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			want := p.raws[:kept]
			if cut >= at+entrySize(len(p.raws[kept])) {
				want = p.raws
			}
			s, rec := open(t, again, nil)
			holds(t, s, rec, want)
			// It goes on behind the repair, and a second recovery sees no damage.
			more := p.raws[len(want):]
			if len(more) == 0 {
				more = nil
			}
			put(t, s, more...)
			_ = s.Close()
			s, rec = open(t, again, nil)
			if len(rec.Damaged) > 0 {
				t.Fatalf("cut at %d: damage where there is none: %v", cut, rec.Damaged)
			}
			holds(t, s, rec, p.raws)
			_ = s.Close()
		}
	}
}

func TestRotInAnOlderSegmentIsNamedAndEndsTheChain(t *testing.T) {
	dir, p := t.TempDir(), newPlant(t)
	s, _ := open(t, dir, nil)
	first := put(t, s, p.frame(4096), p.frame(4096), p.frame(4096))
	path, off := s.active.path, first[1].off
	_ = s.Close()
	s, _ = open(t, dir, nil)
	put(t, s, p.frame(512)) // a second segment
	_ = s.Close()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("rot"), off+2000); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	s, rec := open(t, dir, nil)
	if len(rec.Damaged) != 1 {
		t.Errorf("damage: %v", rec.Damaged)
	}
	holds(t, s, rec, p.raws[2:]) // the newest run; the vault will tell that it does not fit
	if rec.Machines[0].Spooled.Seq != 4 {
		t.Errorf("spooled up to %v", rec.Machines[0].Spooled)
	}
}

func TestForeignAndNewerFilesStopTheOpening(t *testing.T) {
	for name, c := range map[string]struct {
		bytes []byte
		want  error
	}{
		"foreign": {[]byte("not a segment, but long enough to be one"), ErrNotSegment},
		"short":   {[]byte("USSP"), ErrNotSegment},
		"newer":   {append([]byte("USSP\x02"), make([]byte, 40)...), ErrVersion},
		"rotten":  {append([]byte("USSP\x01"), make([]byte, 40)...), ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(segmentPath(dir, 1), c.bytes, 0o600); err != nil {
				t.Fatal(err)
			}
			_, _, err := Open(dir, Options{Segment: MinSegment, Limit: 2 * MinSegment, Log: slog.New(slog.DiscardHandler)})
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}
