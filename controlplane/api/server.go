package api

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Bounds of a connection. Reading is bounded, so that a client who sends a byte a
// minute holds nothing; writing leaves room for the longest wait of a handler.
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 60 * time.Second
	writeTimeout      = 90 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 32 << 10
)

// NewServer is an HTTP server for the handler with the bounds that an API on an open
// port needs. Requests end with the context: some of them wait for a change.
func NewServer(ctx context.Context, h http.Handler, config *tls.Config, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		TLSConfig:         config,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// Handshakes of scanners and clients that do not know our authority.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
