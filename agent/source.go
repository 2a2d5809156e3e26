package main

import (
	"errors"
	"log/slog"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/capture/scan"
)

// How the machine's writes are known.
const (
	captureAuto  = "auto"
	captureExact = "exact"
	captureScan  = "scan"
)

// openCapture takes up the capture of every write, or falls back on scans where this
// kernel cannot give them and the operator has not said otherwise.
func openCapture(o runOptions, log *slog.Logger) (source capture.Source, resume capture.Resume, scans bool, err error) {
	if o.capture != captureScan {
		source, resume, err = capture.Open(capture.Options{Instance: o.instance, RingBytes: o.ringBytes, Log: log})
		if err == nil || o.capture == captureExact || !errors.Is(err, capture.ErrUnsupported) {
			return source, resume, false, err
		}
		log.Warn("writes cannot be captured here; disks are scanned, as the policy says", "err", err)
	}
	source, resume, err = scan.Open()
	return source, resume, true, err
}
