package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// figure is one line of what a run found, for the page of results.
type figure struct {
	key   string
	value any
}

// figures are a flat object in their own order.
type figures []figure

func (f figures) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	for i, line := range f {
		key, errK := json.Marshal(line.key)
		value, errV := json.Marshal(line.value)
		if errK != nil || errV != nil {
			return nil, fmt.Errorf("%s: %v, %v", line.key, errK, errV)
		}
		fmt.Fprintf(&b, "%s%s:%s", [...]string{"{", ","}[min(i, 1)], key, value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// write stores what was found in this run of the tests.
func write(path string, y Tally, mutants []caught) error {
	cpu := cpuSeconds()
	f := figures{{"what", "simulation"}, {"date", time.Now().UTC().Format(time.RFC3339)}, {"kernel", kernel()}}
	if y.Schedules > 0 {
		f = append(f, figure{"schedules", y.Schedules}, figure{"failed", y.Failed}, figure{"first_seed", y.First},
			figure{"seconds", math.Round(y.Seconds)}, figure{"CPU_ms_a_schedule", math.Round(y.CPU / float64(y.Schedules) * 1000)},
			figure{"hours_lived", math.Round(y.Lived.Hours())})
		for _, k := range slices.Sorted(maps.Keys(y.Counts)) {
			if !strings.HasPrefix(k, "op: ") {
				f = append(f, figure{k, y.Counts[k]})
			}
		}
	}
	for _, m := range mutants {
		words, _, _ := strings.Cut(m.failure, ": ")
		f = append(f, figure{"mutant: " + m.mutant, fmt.Sprintf("caught by seed %d, after %d schedules: %s", m.seed, m.tried, words)})
	}
	f = append(f, figure{"CPU_seconds_in_all", math.Round(cpu)})
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// cpuSeconds is what this process has used.
func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// table is the tally as a person reads it.
func (y Tally) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d schedules from seed %d in %.1f s: %.0f a second, %.1f ms of CPU each, %.1f hours lived\n",
		y.Schedules, y.First, y.Seconds, float64(y.Schedules)/y.Seconds, y.CPU/float64(y.Schedules)*1000, y.Lived.Hours())
	for _, k := range slices.Sorted(maps.Keys(y.Counts)) {
		fmt.Fprintf(&b, "%10d  %s\n", y.Counts[k], k)
	}
	return b.String()
}
