package vhd

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzDecode takes any bytes for a footer. Limit: 1 KiB. What is taken describes a
// disk, and comes back from its own footer.
func FuzzDecode(f *testing.F) {
	good := Footer{Size: 1 << 20, Created: time.Unix(1.7e9, 0), ID: [16]byte{1}}.Encode()
	f.Add(good[:], false)
	f.Add(good[:511], false)
	negative := good
	negative[48] = 0xff
	f.Add(negative[:], true)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed && len(b) == FooterSize {
			binary.BigEndian.PutUint32(b[checksumOffset:], checksum(b))
		}
		fuzztest.Bounded(t, 1<<10, func() { _, _ = Decode(b) })
		d, err := Decode(b)
		if err != nil {
			return
		}
		if d.Size < 0 {
			t.Fatalf("a disk of %d bytes", d.Size)
		}
		enc := d.Encode()
		if again, err := Decode(enc[:]); err != nil || again.Size != d.Size || again.ID != d.ID || !again.Created.Equal(d.Created) {
			t.Fatalf("%+v came back as %+v, %v", d, again, err)
		}
	})
}
