package consistency

import (
	"bytes"
	"strings"
	"testing"
)

// TestHush: lines wait in memory, in order; what has no room is counted, not waited for.
func TestHush(t *testing.T) {
	var out bytes.Buffer
	h := NewHush(&out)
	write := func(s string) {
		t.Helper()
		if n, err := h.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	write("a\n")
	h.Hold()
	write("b\n")
	write(strings.Repeat("x", maxHushed))
	write("c\n")
	if out.String() != "a\n" {
		t.Errorf("held, it wrote %q", out.String())
	}
	h.Release()
	write("d\n")
	if got := out.String(); got != "a\nb\nc\n1 lines of this log had no room while its disk was frozen\nd\n" {
		t.Errorf("%q", got)
	}
}
