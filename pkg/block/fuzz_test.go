package block

import (
	"testing"

	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzParse reads names of machines, disks and positions as they stand in paths,
// certificates, JSON and command lines. What is taken is written the same way again,
// but for the case of its letters. Limit: 4 times the input and 1 KiB.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "0", "3.1042", "3.1042 ", "03.1", "-1.2", "+1.2", "18446744073709551616.1", "18446744073709551615.18446744073709551615", "1.2.3",
		"00000000000000000000000000000000", "000102030405060708090a0b0c0d0e0f", "000102030405060708090A0B0C0D0E0F", "000102030405060708090a0b0c0d0e0g",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fuzztest.Bounded(t, 4*len(s)+1<<10, func() {
			_, _ = ParsePosition(s)
			_, _ = ParseDiskID(s)
		})
		if p, err := ParsePosition(s); err == nil && p.String() != s {
			t.Errorf("%q was taken for %v", s, p)
		}
		d, err := ParseDiskID(s)
		if err == nil {
			var again DiskID
			if err := again.UnmarshalText([]byte(d.String())); err != nil || again != d || d.IsZero() {
				t.Errorf("%q: %v came back as %v, %v", s, d, again, err)
			}
		}
		if m, err2 := ParseMachineID(s); (err == nil) != (err2 == nil) || m.String() != d.String() {
			t.Errorf("%q is the disk %v, %v but the machine %v, %v", s, d, err, m, err2)
		}
	})
}
