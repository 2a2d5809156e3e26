package journal

import (
	"encoding/json"
	"testing"

	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzState reads what an earlier process saved. Limit: 256 times the input (two
// letters can be an element of a list) and 64 KiB. What is read can be carried into a
// new file, still fits a state's place, and is the same there.
func FuzzState(f *testing.F) {
	for _, s := range []string{
		``, `null`, `{"epoch":1,"lastSeq":9,"spooled":7,"committed":5,"log":{"any":1},"cleanStop":true,"bootID":"000102030405060708090a0b0c0d0e0f"}`,
		`{"machine":"000102030405060708090a0b0c0d0e0f","dirty":{"000102030405060708090a0b0c0d0e0f":[{"off":0,"len":512},{"off":-1,"len":9223372036854775807}]}}`,
		`{"machine":null,"dirty":{"":null}}`, `{"bootID":"xyz","place":"8:0"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzztest.Bounded(t, 256*len(b)+64<<10, func() { _, _ = decodeState(b) })
		s, err := decodeState(b)
		if err != nil {
			return
		}
		_, _ = parseBoot(s.BootID)
		carried := s.carried(true)
		again, err := decodeState(carried)
		if err != nil {
			t.Fatalf("%s does not come back: %v", carried, err)
		}
		if second := again.carried(true); string(second) != string(carried) {
			t.Errorf("%s came back as %s", carried, second)
		}
		if again.carried(false) == nil || json.Valid(carried) == false {
			t.Error("carried is no JSON")
		}
	})
}

// FuzzBoot reads a boot's name from the kernel or a state. Limit: 4 times the input
// and 4 KiB.
func FuzzBoot(f *testing.F) {
	f.Add("000102030405060708090a0b0c0d0e0f")
	f.Add("00010203-0405-0607-0809-0a0b0c0d0e0f")
	f.Fuzz(func(t *testing.T, s string) {
		fuzztest.Bounded(t, 4*len(s)+4<<10, func() { _, _ = parseBoot(s) })
		if b, err := parseBoot(s); err == nil {
			if again, err := parseBoot(b.String()); err != nil || again != b {
				t.Errorf("%v came back as %v, %v", b, again, err)
			}
		}
	})
}
