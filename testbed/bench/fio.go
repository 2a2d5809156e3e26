package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// fioJob is one way to use a disk.
type fioJob struct {
	name   string
	rw, bs string
	depth  int
	engine string   // libaio unless named
	more   []string // flags
}

// fio runs one job on a device, or on nothing where an engine finds its own, and returns
// iops, MB/s and the latencies p50 and p99 in microseconds.
func fio(ctx context.Context, file string, j fioJob, length time.Duration) (sample, error) {
	engine := j.engine
	if engine == "" {
		engine = "libaio"
	}
	args := append([]string{
		"--name=job", "--output-format=json", "--rw=" + j.rw, "--bs=" + j.bs, "--iodepth=" + strconv.Itoa(j.depth),
		"--ioengine=" + engine, "--time_based", "--runtime=" + strconv.Itoa(int(length.Milliseconds())) + "ms",
		"--ramp_time=" + strconv.Itoa(int(length.Milliseconds()/5)) + "ms", "--randrepeat=1", "--norandommap",
	}, j.more...)
	if file != "" {
		args = append(args, "--filename="+file, "--direct=1")
	}
	out, err := command(ctx, "fio", args...)
	if err != nil {
		return nil, err
	}
	return readFio([]byte(out))
}

// readFio finds the figures in fio's report. Its NBD engine talks before that.
func readFio(text []byte) (sample, error) {
	text = text[max(0, bytes.IndexByte(text, '{')):]
	type direction struct {
		IOPS  float64 `json:"iops"`
		Bytes float64 `json:"bw_bytes"`
		Took  struct {
			Percentile map[string]float64 `json:"percentile"`
		} `json:"clat_ns"`
	}
	var report struct {
		Jobs []struct{ Read, Write direction }
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return nil, fmt.Errorf("fio printed no report: %w: %.200s", err, text)
	}
	if len(report.Jobs) != 1 {
		return nil, fmt.Errorf("fio reports %d jobs, not one", len(report.Jobs))
	}
	d := report.Jobs[0].Write
	if d.IOPS == 0 {
		d = report.Jobs[0].Read
	}
	if d.IOPS == 0 {
		return nil, fmt.Errorf("fio did nothing")
	}
	return sample{
		"iops": d.IOPS, "MB/s": d.Bytes / 1e6,
		"p50": d.Took.Percentile["50.000000"] / 1e3, "p99": d.Took.Percentile["99.000000"] / 1e3,
	}, nil
}
