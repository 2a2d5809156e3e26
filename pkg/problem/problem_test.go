package problem

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
)

func TestProblemSurvivesTheWire(t *testing.T) {
	sent := New(DiskGone, "attach it again", "disk %s of machine %s is gone", "vdb", "web1")
	b, err := json.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	got := &Problem{}
	if err := json.Unmarshal(b, got); err != nil {
		t.Fatal(err)
	}
	if got.Code != DiskGone || got.Status != http.StatusConflict || got.Error() != "disk vdb of machine web1 is gone: attach it again" {
		t.Fatalf("%s came back as %+v", b, got)
	}
}

func TestCodeOf(t *testing.T) {
	wrapped := fmt.Errorf("while protecting: %w", New(DiskProtected, "", "it is"))
	for err, want := range map[error]Code{nil: "", wrapped: DiskProtected, errors.New("disk on fire"): Internal} {
		if got := CodeOf(err); got != want {
			t.Errorf("CodeOf(%v) = %q, want %q", err, got, want)
		}
	}
}

func TestEveryCodeHasAStatusThatIsAnError(t *testing.T) {
	for code, status := range statuses {
		if status < 400 || http.StatusText(status) == "" {
			t.Errorf("%s: status %d", code, status)
		}
	}
	if Code("never heard of").Status() != http.StatusInternalServerError {
		t.Error("an unknown code must be an internal error")
	}
}
