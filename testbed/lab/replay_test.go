package lab

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// replayed is a file of 16 sectors after so many frames of a second each: frame n
// writes n into sectors n and 0 (the first of them once: a frame drops what it
// overwrites), and frame 5 discards sector 2.
func replayed(t *testing.T, share float64, frames int) (content []byte, late *Replay) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, 16*512), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &Disk{Name: "a", Stable: "lab/a"}
	r, err := NewReplay([]*Disk{d}, map[string]string{"a": file}, 1)
	if err != nil {
		t.Fatal(err)
	}
	r.Share, r.Late = share, 3*time.Second
	machine, id := block.NewMachineID(), block.DiskIDFromName(d.Stable)
	b := frame.NewBuilder(machine)
	start := time.Unix(1000, 0)
	for n := range frames {
		b.Reset(frame.KindLog, 1, block.Seq(n+1), start)
		sector := bytes.Repeat([]byte{byte(n)}, 512)
		for _, at := range []int64{int64(n), 0} {
			if err := b.Add(id, frame.OpWrite, block.Extent{Off: at * 512, Len: 512}, sector); err != nil {
				t.Fatal(err)
			}
		}
		if n == 5 {
			if err := b.Add(id, frame.OpDiscard, block.Extent{Off: 2 * 512, Len: 512}, nil); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := b.Append(nil, block.Seq(n+1), start.Add(time.Duration(n)*time.Second), frame.CompressAlways)
		if err != nil {
			t.Fatal(err)
		}
		f, err := frame.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Apply(f); err != nil {
			t.Fatal(err)
		}
	}
	files, err := r.Snapshot(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	content, err = os.ReadFile(files["a"])
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return content, r
}

func TestReplay(t *testing.T) {
	want := make([]byte, 16*512)
	for n := range 10 {
		copy(want[n*512:], bytes.Repeat([]byte{byte(n)}, 512))
	}
	copy(want, bytes.Repeat([]byte{9}, 512))
	copy(want[2*512:], make([]byte, 512))
	if got, r := replayed(t, 0, 10); !bytes.Equal(got, want) || r.Delayed != 0 {
		t.Errorf("nothing late: %d delayed, sectors differ from byte %d on", r.Delayed, mismatch(got, want))
	}
	got, r := replayed(t, 1, 10)
	if r.Delayed != 20 || len(r.held) == 0 || bytes.Equal(got, want) {
		t.Errorf("all late: %d delayed, %d still held", r.Delayed, len(r.held))
	}
	if !bytes.Equal(got[3*512:4*512], want[3*512:4*512]) {
		t.Error("what was late by less than the rest of the log is missing")
	}
}
