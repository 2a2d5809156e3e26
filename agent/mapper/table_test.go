package mapper

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

const key = "f3c1a7d2e4b5968778695a4b3c2d1e0ff0e1d2c3b4a5968778695a4b3c2d1e0f"

// tables are as dmsetup table prints them: of a plain LVM, of one that was extended twice
// and onto a second disk, of LUKS1 with its key and of LUKS2 with one in the keyring.
var tables = map[string]struct {
	text string
	want []Target
}{
	"lvm": {"0 4186112 linear 254:1 2048", []Target{
		{block.Extent{Off: 0, Len: 4186112 * 512}, Linear, 254, 1, 2048 * 512}}},
	"lvm, extended": {"0 20971520 linear 8:2 2048\n20971520 2097152 linear 8:2 41945088\n23068672 8192 linear 8:17 2048", []Target{
		{block.Extent{Off: 0, Len: 20971520 * 512}, Linear, 8, 2, 2048 * 512},
		{block.Extent{Off: 20971520 * 512, Len: 2097152 * 512}, Linear, 8, 2, 41945088 * 512},
		{block.Extent{Off: 23068672 * 512, Len: 8192 * 512}, Linear, 8, 17, 2048 * 512}}},
	"luks1": {"0 4188160 crypt aes-xts-plain64 " + key + " 0 254:1 4096", []Target{
		{block.Extent{Off: 0, Len: 4188160 * 512}, Crypt, 254, 1, 4096 * 512}}},
	"luks2": {"0 4159488 crypt aes-xts-plain64 :64:logon:cryptsetup:3e0b9a0e-5e3b-4a35-9f0c-0a8a1e6b6b60-d0 0 259:3 32768 1 allow_discards", []Target{
		{block.Extent{Off: 0, Len: 4159488 * 512}, Crypt, 259, 3, 32768 * 512}}},
	"luks2, large sectors": {"0 4159488 crypt aes-xts-plain64 :64:logon:cryptsetup:3e0b9a0e-d0 0 259:3 32768 4 allow_discards no_read_workqueue no_write_workqueue sector_size:4096", []Target{
		{block.Extent{Off: 0, Len: 4159488 * 512}, Crypt, 259, 3, 32768 * 512}}},
	"no key": {"0 8 crypt cipher_null-ecb - 0 7:0 0", []Target{
		{block.Extent{Off: 0, Len: 8 * 512}, Crypt, 7, 0, 0}}},
	"with integrity": {"0 1900000 crypt capi:authenc(hmac(sha256),xts(aes))-random " + key + " 0 254:3 0 1 integrity:32:aead", []Target{
		{block.Extent{Off: 0, Len: 1900000 * 512}, CryptIntegrity, 0, 0, 0}}},
	"thin": {"0 819200 thin 254:4 1", []Target{{Extent: block.Extent{Len: 819200 * 512}, Kind: "thin"}}},
	"raid": {"0 81920 raid raid1 3 0 region_size 4096 2 254:0 254:1 254:2 254:3", []Target{{Extent: block.Extent{Len: 81920 * 512}, Kind: "raid"}}},
	"stripes, snapshots, errors": {"0 128 striped 2 128 8:1 0 8:17 0\n128 64 snapshot-origin 254:5\n192 8 error \n200 8 zero ", []Target{
		{Extent: block.Extent{Len: 128 * 512}, Kind: "striped"}, {Extent: block.Extent{Off: 128 * 512, Len: 64 * 512}, Kind: "snapshot-origin"},
		{Extent: block.Extent{Off: 192 * 512, Len: 8 * 512}, Kind: "error"}, {Extent: block.Extent{Off: 200 * 512, Len: 8 * 512}, Kind: "zero"}}},
	"nothing": {"", nil},
}

func TestTables(t *testing.T) {
	for name, c := range tables {
		got, err := parse(answer(c.text))
		if err != nil || len(got) != len(c.want) {
			t.Errorf("%s: %+v, %v", name, got, err)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: target %d is %+v, want %+v", name, i, got[i], c.want[i])
			}
		}
	}
}

// TestTablesThatCannotBeRead: a table of another form is refused, and whatever of it may
// be a key is not in the words.
func TestTablesThatCannotBeRead(t *testing.T) {
	for name, text := range map[string]string{
		"crypt, a field less":     "0 8 crypt aes-xts-plain64 " + key + " 254:1 4096",
		"crypt, a field shifted":  "0 8 crypt aes-xts-plain64 0 " + key + " " + key + " 4096",
		"crypt, key at the place": "0 8 crypt aes-xts-plain64 0 0 254:1 " + key,
		"linear, a field more":    "0 8 linear 254:1 0 " + key,
		"linear, by name":         "0 8 linear /dev/sda1 0",
		"linear, below zero":      "0 8 linear 254:1 -8",
		"beyond all":              "0 8 linear 254:1 9007199254740992",
		"a gap":                   "0 8 linear 254:1 0\n16 8 linear 254:1 8",
		"not from zero":           "8 8 linear 254:1 0",
		"of nothing":              "0 0 linear 254:1 0",
	} {
		got, err := parse(answer(text))
		if !errors.Is(err, errAnswer) || got != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		} else if strings.Contains(err.Error(), key[:8]) {
			t.Errorf("%s: the key is in the words: %v", name, err)
		}
	}
}

// TestCutAnswers: an answer that ends early is refused, wherever it does.
func TestCutAnswers(t *testing.T) {
	whole := answer(tables["lvm, extended"].text)
	for n := range whole {
		b := append([]byte(nil), whole[:n]...)
		if got, err := parse(b); err == nil {
			t.Fatalf("%d of %d bytes: %+v", n, len(whole), got)
		}
		if n < headSize {
			continue
		}
		binary.NativeEndian.PutUint32(b[atDataSize:], uint32(n))
		if got, err := parse(b); err == nil {
			t.Fatalf("%d of %d bytes, and it says so: %+v", n, len(whole), got)
		}
	}
}

// FuzzTable reads any answer to DM_TABLE_STATUS. Limit: 64 times the input (a field of
// two bytes has a slice) and 4 KiB. What is read has no gap and no place before or beyond
// what an int64 can say.
func FuzzTable(f *testing.F) {
	for _, c := range tables {
		f.Add(answer(c.text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzztest.Bounded(t, 64*len(b)+4<<10, func() { _, _ = parse(b) })
		targets, err := parse(b)
		if err != nil {
			return
		}
		end := int64(0)
		for _, target := range targets {
			if target.Off != end || target.Len <= 0 || target.End() <= end || target.Below < 0 || target.Below+target.Len <= 0 {
				t.Fatalf("%+v", targets)
			}
			end = target.End()
			if !target.InPlace() && (target.Major != 0 || target.Minor != 0 || target.Below != 0) {
				t.Fatalf("a %s lies at %+v", target.Kind, target)
			}
		}
	})
}

// answer is what the kernel answers for a table.
func answer(table string) []byte {
	le := binary.NativeEndian
	b := make([]byte, headSize)
	targets, last := 0, 0
	for line := range strings.Lines(table) {
		targets++
		for (len(b)-headSize)%8 != 0 {
			b = append(b, 0)
		}
		if targets > 1 {
			le.PutUint32(b[last+20:], uint32(len(b)-headSize))
		}
		last = len(b)
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		spec := make([]byte, specSize)
		le.PutUint64(spec, number(f[0]))
		le.PutUint64(spec[8:], number(f[1]))
		copy(spec[24:], f[2])
		b = append(append(append(b, spec...), f[3]...), 0)
	}
	le.PutUint32(b[atVersion:], 4)
	le.PutUint32(b[atDataSize:], uint32(len(b)))
	le.PutUint32(b[atDataStart:], headSize)
	le.PutUint32(b[atTargets:], uint32(targets))
	return b
}

func number(s string) (n uint64) {
	for _, c := range s {
		n = n*10 + uint64(c-'0')
	}
	return n
}
