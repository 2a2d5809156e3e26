package sim

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

// traceLog brings what the parts log into the trace.
type traceLog struct{ w *world }

func (traceLog) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (t traceLog) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	})
	t.w.note("    log: %s%s", r.Message, b.String())
	return nil
}

func (t traceLog) WithAttrs([]slog.Attr) slog.Handler { return t }
func (t traceLog) WithGroup(string) slog.Handler      { return t }
