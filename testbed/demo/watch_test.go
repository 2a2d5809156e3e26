package main

import (
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/testbed/lab"
)

func TestPercentile(t *testing.T) {
	w := &watch{}
	if w.percentile(99) != 0 {
		t.Error("a percentile of nothing")
	}
	for i := range 200 {
		w.rpo = append(w.rpo, time.Duration(200-i)*time.Millisecond)
	}
	for p, want := range map[float64]int64{50: 100, 99: 198, 100: 200} {
		if got := w.percentile(p); got != want {
			t.Errorf("p%g is %d ms, want %d", p, got, want)
		}
	}
}

// TestOutageCounts: while the control plane does not answer, the RPO grows.
func TestOutageCounts(t *testing.T) {
	now := time.Now()
	w := &watch{newest: now.Add(-time.Second)}
	if age := w.sample(lab.View{}, now.Add(4*time.Second)); age != 5*time.Second {
		t.Errorf("RPO %s after an outage, want 5s", age)
	}
}

// TestCapturedOverSeveralLives: an agent that starts again counts from zero.
func TestCapturedOverSeveralLives(t *testing.T) {
	w := &watch{}
	for _, n := range []int64{10, 100, 5, 50, 7} {
		w.sample(lab.View{Protection: &desired.Protection{Captured: n}}, time.Now())
	}
	if w.captured() != 157 {
		t.Errorf("%d bytes captured, want 157", w.captured())
	}
}
