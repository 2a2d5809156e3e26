// Package obs is what both binaries show of themselves: their version, their log and
// their metrics.
package obs

import (
	"io"
	"log/slog"
	"runtime/debug"
)

// Version is set by the linker; a build without it says what Go knows of its source.
var Version = ""

// BuildVersion is Version, or the revision Go stamped into the binary.
func BuildVersion() string {
	if Version != "" {
		return Version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

// NewLog writes structured lines to w from level on: text, or JSON where a machine
// reads them.
func NewLog(w io.Writer, level slog.Level, json bool) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if json {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
