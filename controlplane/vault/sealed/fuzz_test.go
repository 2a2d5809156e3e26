package sealed

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

func addObjects(f *testing.F) {
	object, err := Seal(nil, Key{1}, "m/1", KindLog, 1, Sections{Index: []byte("index"), Data: [][]byte{[]byte("data")}, Hashes: []byte("hash")})
	if err != nil {
		f.Fatal(err)
	}
	endless := bytes.Clone(object)
	binary.LittleEndian.PutUint64(endless[32:], MaxSection)
	for _, b := range [][]byte{object, object[:HeaderSize], object[:len(object)-1], endless} {
		f.Add(b, false)
		f.Add(b, true)
	}
}

// reseal makes a header's checksum right, so that fuzzing gets behind it.
func reseal(b []byte, sealed bool) {
	if sealed && len(b) >= HeaderSize {
		binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	}
}

// FuzzParseHeader takes any bytes for an object's header. Limit: 4 KiB.
func FuzzParseHeader(f *testing.F) {
	addObjects(f)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		reseal(b, sealed)
		fuzztest.Bounded(t, 4<<10, func() { _, _ = ParseHeader(b) })
		h, err := ParseHeader(b)
		if err != nil {
			return
		}
		var again [HeaderSize]byte
		h.encode(&again)
		if !bytes.Equal(again[:], b[:HeaderSize]) {
			t.Fatalf("header %+v does not encode to what it was parsed from", h)
		}
		for s := range sections {
			if r, err := h.Range(s, 0, h.Len[s]); err != nil || r.Off+r.Len > h.Size() {
				t.Fatalf("range %+v of %+v: %v", r, h, err)
			}
		}
	})
}

// FuzzOpen opens the sections of any object. Limit: 4 times the object and 64 KiB,
// whatever its header claims. What opens is what was sealed under that key: nothing.
func FuzzOpen(f *testing.F) {
	addObjects(f)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		reseal(b, sealed)
		h, err := ParseHeader(b)
		if err != nil {
			return
		}
		fuzztest.Bounded(t, 4*len(b)+64<<10, func() {
			o := NewOpener(Key{2}, "m/1", h)
			for s := range sections {
				if plain, err := o.OpenSection(s, b); err == nil && len(plain) > 0 {
					t.Fatalf("section %d opened under a foreign key: %q", s, plain)
				}
			}
		})
	})
}
