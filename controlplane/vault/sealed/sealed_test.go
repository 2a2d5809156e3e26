package sealed

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func random(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// TestRangesOpenToWhatWasSealed reads random stretches of random sections, cut into
// random pieces, through the public path a store's reader takes.
func TestRangesOpenToWhatWasSealed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lens := rapid.SampledFrom([]int{0, 1, 17, ChunkSize - 1, ChunkSize, ChunkSize + 1, 3*ChunkSize + 5})
		data := random(lens.Draw(t, "data"), 1)
		s := Sections{Index: random(lens.Draw(t, "index"), 2), Hashes: random(lens.Draw(t, "hashes"), 3)}
		for rest := data; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			s.Data, rest = append(s.Data, rest[:n], nil), rest[n:]
		}
		key := NewKey()
		object, err := Seal(nil, key, "m/1", KindLog, 7, s)
		if err != nil {
			t.Fatal(err)
		}
		h, err := ParseHeader(object)
		if err != nil || h.Size() != int64(len(object)) || h.Generation != 7 {
			t.Fatalf("header %+v of %d bytes: %v", h, len(object), err)
		}
		o := NewOpener(key, "m/1", h)
		for i, want := range [][]byte{s.Index, data, s.Hashes} {
			off := rapid.IntRange(0, len(want)).Draw(t, "off")
			n := rapid.IntRange(0, len(want)-off).Draw(t, "n")
			r, err := h.Range(Section(i), int64(off), int64(n))
			if err != nil {
				t.Fatal(err)
			}
			got, err := o.Open(nil, r, object[r.Off:r.Off+r.Len])
			if err != nil {
				t.Fatal(err)
			}
			if got = got[min(int(r.Skip), len(got)):]; !bytes.Equal(got[:n], want[off:off+n]) {
				t.Fatalf("section %d [%d+%d) differs", i, off, n)
			}
		}
	})
}

// TestNothingAlteredOpens flips one bit anywhere, cuts anywhere, and offers the
// object under another name, key or place.
func TestNothingAlteredOpens(t *testing.T) {
	key := NewKey()
	s := Sections{Index: random(100, 1), Data: [][]byte{random(ChunkSize+100, 2)}, Hashes: random(32, 3)}
	object, err := Seal(nil, key, "m/1", KindLog, 1, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := openAll(key, "m/1", object); err != nil {
		t.Fatalf("untouched object: %v", err)
	}
	for i := 0; i < len(object); i += 97 {
		bad := bytes.Clone(object)
		bad[i] ^= 1 << (i % 8)
		if openAll(key, "m/1", bad) == nil {
			t.Fatalf("bit flipped in byte %d went unseen", i)
		}
		if openAll(key, "m/1", object[:i]) == nil {
			t.Fatalf("cut at %d went unseen", i)
		}
	}
	if err := openAll(key, "m/2", object); !errors.Is(err, ErrAuth) {
		t.Fatalf("under another name: %v", err)
	}
	if err := openAll(NewKey(), "m/1", object); !errors.Is(err, ErrAuth) {
		t.Fatalf("with another key: %v", err)
	}
	h, _ := ParseHeader(object)
	o := NewOpener(key, "m/1", h)
	first, _ := h.Range(Data, 0, ChunkSize)
	if _, _, err := o.OpenChunk(nil, Hashes, 0, object[first.Off:]); !errors.Is(err, ErrAuth) {
		t.Fatalf("a chunk of another section: %v", err)
	}
}

func openAll(key Key, name string, object []byte) error {
	h, err := ParseHeader(object)
	if err != nil {
		return err
	}
	o := NewOpener(key, name, h)
	for s := range sections {
		if _, err := o.OpenSection(s, object); err != nil {
			return err
		}
	}
	return nil
}

func TestHeaderVerdicts(t *testing.T) {
	object, err := Seal(nil, NewKey(), "m/1", KindDocument, 1, Sections{Index: []byte("{}")})
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, v byte) []byte {
		b := bytes.Clone(object)
		b[at] = v
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"short":    {object[:HeaderSize-1], ErrTruncated},
		"foreign":  {[]byte("PK\x03\x04" + string(object[4:])), ErrNotSealed},
		"version":  {change(4, 2), ErrVersion},
		"checksum": {change(9, object[9]+1), ErrChecksum},
	} {
		if _, err := ParseHeader(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func BenchmarkSeal8MiB(b *testing.B) {
	data := random(8<<20, 1)
	b.SetBytes(8 << 20)
	var buf []byte
	for b.Loop() {
		var err error
		if buf, err = Seal(buf, Key{1}, "m/1", KindLog, 1, Sections{Data: [][]byte{data}}); err != nil {
			b.Fatal(err)
		}
	}
}
