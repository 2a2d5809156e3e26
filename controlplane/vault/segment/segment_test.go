package segment

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

const span = 64

// unknown marks a byte of the model that no record has touched.
const unknown = -2

// paint is the model: for each byte, its source and place therein.
func paint(records []Segment) (m [span][2]int) {
	for i := range m {
		m[i] = [2]int{unknown, 0}
	}
	for _, r := range records {
		for i := r.Off; i < r.End; i++ {
			m[i] = [2]int{int(r.Src), 0}
			if r.Src >= 0 {
				m[i][1] = int(r.At) + int(i-r.Off)
			}
		}
	}
	return m
}

func records(t *rapid.T) []Segment {
	rs := make([]Segment, rapid.IntRange(1, 30).Draw(t, "n"))
	for i := range rs {
		off := rapid.Int64Range(0, span-1).Draw(t, "off")
		rs[i] = Segment{Off: off, End: rapid.Int64Range(off+1, span).Draw(t, "end"), Src: int32(i % 7), At: int32(off) + int32(i%3)}
		if rapid.Bool().Draw(t, "zero") {
			rs[i].Src, rs[i].At = Zero, 0
		}
	}
	return rs
}

func check(t *rapid.T, what string, l List, want [span][2]int) {
	t.Helper()
	if got := paint(l); got != want {
		t.Fatalf("%s: %v\n got %v\nwant %v", what, l, got, want)
	}
	for i, s := range l {
		if s.Off >= s.End || i > 0 && (l[i-1].End > s.Off || l[i-1].continues(s)) {
			t.Fatalf("%s: not sorted, disjoint and joined: %v", what, l)
		}
	}
}

// TestListsAgainstModel holds every way to fold records against painting bytes.
func TestListsAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rs := records(t)
		want := paint(rs)
		check(t, "FromRecords", FromRecords(rs), want)

		var oldest []List
		for rest := rs; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "batch")
			oldest, rest = append(oldest, FromRecords(rest[:n])), rest[n:]
		}
		before := slices.Clone(oldest)
		check(t, "Fold", Fold(oldest), want)
		var stack Stack
		for _, l := range slices.Backward(oldest) {
			stack.Push(l)
		}
		check(t, "Stack", stack.List(), want)
		for i := range before {
			if !slices.Equal(before[i], oldest[i]) {
				t.Fatal("folding changed its input")
			}
		}

		off := rapid.Int64Range(0, span).Draw(t, "clip")
		end := rapid.Int64Range(off, span).Draw(t, "clipEnd")
		for i := range want {
			if int64(i) < off || int64(i) >= end {
				want[i] = [2]int{unknown, 0}
			}
		}
		check(t, "Clip", stack.List().Clip(off, end), want)
	})
}

func BenchmarkStackRandom4K(b *testing.B) {
	const objects, each = 256, 2048
	lists := make([]List, objects)
	x := uint64(1)
	for i := range lists {
		rs := make([]Segment, each)
		for j := range rs {
			x = x*6364136223846793005 + 1442695040888963407
			off := int64(x>>40) * 4096
			rs[j] = Segment{Off: off, End: off + 4096, Src: int32(i), At: int32(j * 4096)}
		}
		lists[i] = FromRecords(rs)
	}
	for b.Loop() {
		var s Stack
		for _, l := range slices.Backward(lists) {
			s.Push(l)
		}
		s.List()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(objects*each), "ns/record")
}
