package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/hrl"
)

// TestInspectWhileInUse reads both stages of an open journal.
func TestInspectWhileInUse(t *testing.T) {
	o := testOptions(t, 16<<10, 64<<10)
	j, _ := mustOpen(t, o)
	defer j.Close()
	raw, err := frame.AppendMark(nil, machine, 1, 1, base, frame.Mark{Type: frame.MarkEpochBegin, Reason: frame.ReasonInitial})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Append(raw, 1); err != nil {
		t.Fatal(err)
	}
	last := fill(t, j, 2, 4096)
	if err := j.SaveState(State{Epoch: 5}); err != nil {
		t.Fatal(err)
	}
	lines := inspect(t, filepath.Join(o.MemoryDir, memoryFile))
	if got := parts(lines); !strings.HasPrefix(got, "file anchor anchor state state entry") || !strings.HasSuffix(got, "entry end") {
		t.Errorf("parts: %s", got)
	}
	if mark := lines[5]["mark"].(map[string]any); mark["reason"] != "initial" || lines[5]["kind"] != "mark" {
		t.Errorf("mark: %v", lines[5])
	}
	if s := lines[4]["state"].(map[string]any); s["epoch"] != 5.0 {
		t.Errorf("state: %v", lines[4])
	}
	lines = inspect(t, o.SpillPath)
	if e := lines[len(lines)-2]; e["last"] != float64(last) || e["extents"] != 1.0 || e["closed"] != base.Add(time.Duration(last)*time.Second).UTC().Format(time.RFC3339) {
		t.Errorf("newest entry %v, want %d", e, last)
	}
	if end := lines[len(lines)-1]; end["torn"] != false || end["verdict"] == "" {
		t.Errorf("end: %v", end)
	}
}

func TestInspectTellsWhatIsDamaged(t *testing.T) {
	o := testOptions(t, 16<<10, 0)
	j, _ := mustOpen(t, o)
	mustAppend(t, j, 1, 1000)
	mustAppend(t, j, 2, 1000)
	j.Close()
	path := filepath.Join(o.MemoryDir, memoryFile)
	im, err := hrl.OpenImage(path)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	flip(t, path, im.FileBytes()-im.RingBytes+int64(im.End(j.items[0].Entry))+200)
	flip(t, path, hrl.BlockSize+9)
	lines := inspect(t, path)
	if end := lines[len(lines)-1]; end["torn"] != true || end["entries"] != 1.0 {
		t.Errorf("end: %v", end)
	}
	if e, _ := lines[1]["error"].(string); !strings.Contains(e, "checksum") {
		t.Errorf("anchor: %v", lines[1])
	}
	if err := Inspect(new(bytes.Buffer), "/dev/zero"); err == nil {
		t.Error("/dev/zero passed for a journal")
	}
	if err := Inspect(new(bytes.Buffer), os.Args[0]); !errors.Is(err, hrl.ErrNotHRL) {
		t.Errorf("a program passed for a journal: %v", err)
	}
}

func inspect(t *testing.T, path string) (lines []map[string]any) {
	t.Helper()
	var b bytes.Buffer
	if err := Inspect(&b, path); err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(&b); d.More(); {
		var line map[string]any
		if err := d.Decode(&line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	return lines
}

func parts(lines []map[string]any) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(" " + l["part"].(string))
	}
	return strings.TrimSpace(b.String())
}
