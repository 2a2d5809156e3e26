package capture

import (
	"testing"
	"time"
)

func TestPauses(t *testing.T) {
	const ms, mib = time.Millisecond, 1 << 20
	settle := func(rate float64, ring uint64) time.Duration { // bytes a second
		p := Pauses{Least: 2 * ms, Most: 10 * ms}
		d := p.Next(0, ring)
		for range 20 {
			d = p.Next(int64(rate*d.Seconds()), ring)
		}
		return d
	}
	for _, c := range []struct {
		what       string
		rate       float64
		ring       uint64
		from, upto time.Duration
	}{
		{"an idle ring", 0, 64 * mib, 8 * ms, 9 * ms},
		{"a large idle ring", 0, 256 * mib, 10 * ms, 10 * ms},
		{"a small ring, which a burst would fill", 0, 1 * mib, 2 * ms, 2 * ms},
		{"an unknown ring", 1e9, 0, 2 * ms, 2 * ms},
		{"steady churn", 200e6, 64 * mib, 8 * ms, 9 * ms},
		{"as much as a disk in memory takes", 2e9, 64 * mib, 3 * ms, 5 * ms},
		{"more than can be taken", 20e9, 64 * mib, 2 * ms, 2 * ms},
	} {
		if d := settle(c.rate, c.ring); d < c.from || d > c.upto {
			t.Errorf("%s is polled every %s, want %s to %s", c.what, d, c.from, c.upto)
		}
	}
	p := Pauses{Least: 2 * ms, Most: 10 * ms}
	if first := p.Next(0, 64*mib); first != 2*ms {
		t.Errorf("the first pause is %s", first)
	}
	for range 5 {
		p.Next(0, 64*mib)
	}
	if d := p.Next(60*mib, 64*mib); d > 2*ms {
		t.Errorf("after a pause that nearly filled the ring comes one of %s", d)
	}
}
