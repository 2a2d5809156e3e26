package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// ticksPerSecond is the unit of /proc/PID/stat, the same on all of Linux's systems.
const ticksPerSecond = 100

// cpuSeconds is the processor time a process has used, user and system.
func cpuSeconds(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStat(text)
}

func parseStat(text []byte) (float64, error) {
	// The name, in brackets, may hold anything.
	f := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/PID/stat holds %q", text)
	}
	user, err := strconv.ParseFloat(string(f[11]), 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseFloat(string(f[12]), 64)
	return (user + system) / ticksPerSecond, err
}

// memoryPeak is the most memory a process has held, in bytes.
func memoryPeak(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		if f := bytes.Fields(line); len(f) == 3 && string(f[0]) == "VmHWM:" {
			n, err := strconv.ParseInt(string(f[1]), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no peak", pid)
}
