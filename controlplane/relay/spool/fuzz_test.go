package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzHeads takes any bytes for the head of a segment, of an entry, and for a table of
// positions. Limit: 4 times the input and 4 KiB. What is taken is written the same way
// again, but for a segment's time and what is reserved.
func FuzzHeads(f *testing.F) {
	head := appendFileHead(nil, 7, time.Unix(1, 0))
	entry := appendEntryHead(nil, 7, entryHeader{kind: kindFrame, size: 1 << 20, sum: 9})
	table := appendPositions(nil, []Positions{{Machine: block.MachineID{1}, Spooled: LogPosition{block.Position{Epoch: 1, Seq: 2}, time.Unix(3, 4)}}, {}})
	for _, b := range [][]byte{head, entry, table, table[1:], nil} {
		f.Add(b, false)
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed && len(b) >= fileHead {
			reseal(b)
		}
		fuzztest.Bounded(t, 4*len(b)+4<<10, func() {
			_, _ = parseFileHead(b)
			_, _ = parsePositions(b)
		})
		if id, err := parseFileHead(b); err == nil && binary.LittleEndian.Uint64(b[8:]) != id {
			t.Fatalf("segment %d", id)
		} else if err != nil && !errors.Is(err, ErrNotSegment) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrDamaged) {
			t.Fatalf("an error of no class: %v", err)
		}
		if len(b) >= entryHead {
			if h, err := parseEntryHead(b, 7); err == nil {
				if again := appendEntryHead(nil, 7, h); !bytes.Equal(again[8:24], b[8:24]) || again[4] != b[4] {
					t.Fatalf("%+v is written as %x, was %x", h, again, b[:entryHead])
				}
			}
		}
		if all, err := parsePositions(b); err == nil && !bytes.Equal(appendPositions(nil, all), b) {
			t.Fatalf("%+v does not come back", all)
		}
	})
}

// FuzzScan opens whatever lies in a segment's place. Limit: 32 times the file and 64
// KiB: an entry is no larger than the file it stands in.
func FuzzScan(f *testing.F) {
	golden, err := os.ReadFile(filepath.Join("testdata", "segment.v1"))
	if err != nil {
		f.Fatal(err)
	}
	for _, sealed := range []bool{false, true} {
		f.Add(golden, 0, []byte(nil), sealed)
		f.Add(golden[:100], 0, []byte(nil), sealed)
		f.Add(golden, fileHead+16, []byte{0xff, 0xff, 0xff, 0x7f}, sealed)
		f.Add(golden, fileHead+4, []byte{kindPositions}, sealed)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte, at int, over []byte, sealed bool) {
		if at >= 0 && at < len(b) {
			copy(b[at:], over)
		}
		if sealed && len(b) >= fileHead+entryHead {
			reseal(b[:fileHead])
			reseal(b[fileHead:][:entryHead])
		}
		path := segmentPath(dir, 7)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		seg, err := openSegment(system{}, path)
		if err != nil {
			return
		}
		defer seg.file.Close()
		fuzztest.Bounded(t, 32*len(b)+64<<10, func() {
			for _, newest := range []bool{true, false} {
				if found, err := seg.scan(newest); err != nil || found.end > int64(len(b))+8 {
					t.Fatalf("scan: %v, end %d of %d", err, found.end, len(b))
				}
			}
		})
	})
}

// reseal makes the checksum of a head right, so that fuzzing gets behind it.
func reseal(head []byte) {
	binary.LittleEndian.PutUint32(head[28:], checksum(head[:28]))
}
