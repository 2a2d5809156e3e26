package lab

import (
	"os"
	"strings"
	"testing"
)

func TestSameBytesSeesOneBit(t *testing.T) {
	l := open(t)
	d, err := l.NewDisk(t.Context(), "bare", 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Scribble(200); err != nil {
		t.Fatal(err)
	}
	other := l.Path("copy")
	if _, err := run(t.Context(), "cp", d.File, other); err != nil {
		t.Fatal(err)
	}
	if err := SameBytes(d.Device, other); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(other, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	f.ReadAt(b, 33<<20+5)
	b[0] ^= 4
	f.WriteAt(b, 33<<20+5)
	if err := SameBytes(d.Device, other); err == nil || !strings.Contains(err.Error(), "in 1 blocks, first at byte 34603013") {
		t.Error(err)
	}
	f.Truncate(63 << 20)
	if err := SameBytes(d.Device, other); err == nil || !strings.Contains(err.Error(), "has 66060288") {
		t.Error(err)
	}
}
