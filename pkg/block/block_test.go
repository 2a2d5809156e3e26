package block

import (
	"testing"

	"pgregory.net/rapid"
)

// TestSetAgainstModel holds the set against a plain array of booleans.
func TestSetAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const n = 64
		var model [n]bool
		var s Set
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			off := rapid.Int64Range(0, n-1).Draw(t, "off")
			e := Extent{Off: off, Len: rapid.Int64Range(0, n-off).Draw(t, "len")}
			add := rapid.Bool().Draw(t, "add")
			if add {
				s.Add(e)
			} else {
				s.Remove(e)
			}
			for i := e.Off; i < e.End(); i++ {
				model[i] = add
			}
			checkModel(t, &s, model[:])
			q := rapid.Int64Range(0, n-1).Draw(t, "q")
			checkQuery(t, &s, model[:], Extent{Off: q, Len: rapid.Int64Range(1, n-q).Draw(t, "qlen")})
		}
	})
}

func checkModel(t *rapid.T, s *Set, model []bool) {
	var got [64]bool
	last := int64(-1)
	for e := range s.All() {
		if e.Empty() || e.Off <= last {
			t.Fatalf("extents not ascending, disjoint and non-adjacent: %v", s.Extents())
		}
		last = e.End()
		for i := e.Off; i < e.End(); i++ {
			got[i] = true
		}
	}
	for i := range model {
		if got[i] != model[i] {
			t.Fatalf("byte %d: set says %v, model %v: %v", i, got[i], model[i], s.Extents())
		}
	}
}

func checkQuery(t *rapid.T, s *Set, model []bool, e Extent) {
	all, some := true, false
	for i := e.Off; i < e.End(); i++ {
		all, some = all && model[i], some || model[i]
	}
	var within int64
	for x := range s.Within(e) {
		if !e.Contains(x) {
			t.Fatalf("Within(%v) yields %v", e, x)
		}
		within += x.Len
	}
	if s.Covers(e) != all || s.Overlaps(e) != some || (within == e.Len) != all || (within > 0) != some {
		t.Fatalf("%v in %v: covers %v overlaps %v within %d, model %v %v", e, s.Extents(), s.Covers(e), s.Overlaps(e), within, all, some)
	}
}

func TestIDsRoundTripAndRefuseNonsense(t *testing.T) {
	m := NewMachineID()
	if got, err := ParseMachineID(m.String()); err != nil || got != m {
		t.Fatalf("machine id %v came back as %v, %v", m, got, err)
	}
	d := DiskIDFromName("wwn-0x5000c500a1b2c3d4")
	if got, err := ParseDiskID(d.String()); err != nil || got != d {
		t.Fatalf("disk id %v came back as %v, %v", d, got, err)
	}
	for _, bad := range []string{"", "zz", "00000000000000000000000000000000", d.String() + "00"} {
		if _, err := ParseDiskID(bad); err == nil {
			t.Errorf("ParseDiskID(%q) took it", bad)
		}
	}
}

func TestPositionRoundTrip(t *testing.T) {
	p := Position{Epoch: 3, Seq: 1042}
	if got, err := ParsePosition(p.String()); err != nil || got != p {
		t.Fatalf("%v came back as %v, %v", p, got, err)
	}
	for _, bad := range []string{"", "3", "3.", "a.b", "3.1x", "-1.2"} {
		if _, err := ParsePosition(bad); err == nil {
			t.Errorf("ParsePosition(%q) took it", bad)
		}
	}
	if !(Position{1, 99}).Before(Position{2, 1}) || (Position{2, 1}).Before(Position{2, 1}) {
		t.Error("positions do not order by epoch, then sequence")
	}
}

func TestContainsDoesNotWrapAround(t *testing.T) {
	e := Extent{Off: 4096, Len: 8192}
	for o, want := range map[Extent]bool{
		{Off: 4096, Len: 8192}: true, {Off: 8192, Len: 4096}: true, {Off: 12288}: true,
		{Off: 0, Len: 4096}: false, {Off: 8192, Len: 8192}: false,
		{Off: 8192, Len: 1<<63 - 1}: false, {Off: 1<<63 - 1, Len: 1<<63 - 1}: false,
	} {
		if e.Contains(o) != want {
			t.Errorf("%v contains %v: %v, want %v", e, o, !want, want)
		}
	}
}
