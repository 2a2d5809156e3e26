package capture

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/agent/capture/bpf"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzName reads what an earlier process left with a disk's slot. Limit: 256 times the
// input and 64 KiB. What is read names a disk that can be, and comes back.
func FuzzName(f *testing.F) {
	disk := Disk{Name: "serial-1", Path: "/dev/sda", Major: 8, Size: 1 << 30, SectorSize: 512}
	disk.ID = block.DiskIDFromName(disk.Name)
	good, err := json.Marshal(slotName{Disk: &disk})
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{nil, make([]byte, slotNameBytes), append(good, make([]byte, 64)...), []byte(`{"retired":18446744073709551615}`), []byte(`{"disk":{}}`), []byte(`{"disk":{"Size":-1}}`)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		fuzztest.Bounded(t, 256*len(raw)+64<<10, func() { _, _ = parseName(raw) })
		n, err := parseName(raw)
		if err != nil {
			return
		}
		if n.Disk != nil && (n.Disk.ID.IsZero() || n.Disk.Size <= 0) {
			t.Errorf("%q names %+v", raw, *n.Disk)
		}
		b, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseName(b)
		if err != nil {
			t.Fatalf("%s does not come back: %v", b, err)
		}
		if c, err := json.Marshal(again); err != nil || !bytes.Equal(b, c) {
			t.Errorf("%s came back as %s, %v", b, c, err)
		}
	})
}

// FuzzPartitionTable reads a name out of anybody's first two sectors. Limit: 4 KiB.
func FuzzPartitionTable(f *testing.F) {
	mbr := make([]byte, 512)
	mbr[510], mbr[511], mbr[440] = 0x55, 0xaa, 1
	f.Add(mbr, []byte("EFI PART"))
	f.Add(mbr, make([]byte, 512))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		first, second = append(first, make([]byte, 512)...), append(second, make([]byte, 512)...)
		fuzztest.Bounded(t, 4<<10, func() { _, _ = tableName(first, second) })
		if s, err := tableName(first, second); err == nil && (clean(s) != s || len(s) > 4+32) {
			t.Errorf("a name %q", s)
		}
	})
}

// FuzzRecord takes any bytes for a record of the ring. Limit: 4 KiB. A write that is
// taken has as many bytes of data as it says.
func FuzzRecord(f *testing.F) {
	f.Add(make([]byte, recordHeader))
	f.Add(make([]byte, recordHeader+4096))
	f.Add(bytes.Repeat([]byte{0xff}, int(recordHeader)+8))
	f.Add([]byte{1})
	s := &source{}
	var slots [maxDisks]*tracked
	for i := range slots {
		slots[i] = &tracked{Disk: Disk{ID: block.DiskID{1}}}
	}
	s.slots.Store(&slots)
	f.Fuzz(func(t *testing.T, b []byte) {
		// In the ring records are aligned to 8 bytes.
		raw := append(make([]byte, 0, (len(b)+15)&^7), b...)
		fuzztest.Bounded(t, 4<<10, func() {
			var h *bpf.CaptureRecord
			h, err := header(raw)
			if err != nil {
				return
			}
			r, ok, err := s.record(h, raw, 0, bootTime(time.Now, bootClock))
			if err == nil && ok && r.Data != nil && int64(len(r.Data)) != r.Len {
				t.Fatalf("a write of %d bytes with %d of data", r.Len, len(r.Data))
			}
		})
	})
}
