package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestInterleaveRotates(t *testing.T) {
	var order []string
	turn := func(name string) arm {
		return arm{name, func(_ context.Context, round int) (sample, error) {
			order = append(order, name)
			return sample{"v": float64(10*round) + float64(len(order))}, nil
		}}
	}
	got, err := interleave(t.Context(), 3, turn("a"), turn("b"), turn("c"))
	if err != nil {
		t.Fatal(err)
	}
	if s := strings.Join(order, ""); s != "abcbcacab" {
		t.Errorf("the order was %s", s)
	}
	// By round, not by turn: a's second is in round 2, though it came last there.
	if v := got.of("a", "v"); !slices.Equal(v, []float64{1, 16, 28}) {
		t.Errorf("a measured %v", v)
	}
}

func TestInterleaveNamesWhoFailed(t *testing.T) {
	bad := errors.New("no disk")
	_, err := interleave(t.Context(), 2, arm{"fine", func(context.Context, int) (sample, error) { return sample{}, nil }},
		arm{"broken", func(_ context.Context, round int) (sample, error) {
			if round == 1 {
				return nil, bad
			}
			return sample{}, nil
		}})
	if !errors.Is(err, bad) || !strings.Contains(err.Error(), "broken, round 2") {
		t.Error(err)
	}
}

func TestReadFio(t *testing.T) {
	const report = `{"jobs":[{"read":{"iops":0},"write":{"iops":1234.5,"bw_bytes":5056512,"clat_ns":{"percentile":{"50.000000":7000,"99.000000":91000}}}}]}`
	s, err := readFio([]byte("fio: connected to NBD server\n" + report))
	if err != nil || s["iops"] != 1234.5 || s["p50"] != 7 || s["p99"] != 91 || s["MB/s"] != 5.056512 {
		t.Errorf("%v, %v", s, err)
	}
	for _, bad := range []string{"fio: unknown option", `{"jobs":[]}`, `{"jobs":[{}]}`} {
		if _, err := readFio([]byte(bad)); err == nil {
			t.Errorf("%q was taken for a report", bad)
		}
	}
}

func TestParseStat(t *testing.T) {
	got, err := parseStat([]byte("42 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 250 0 0 20 0"))
	if err != nil || got != 4 {
		t.Errorf("%v s, %v", got, err)
	}
}
