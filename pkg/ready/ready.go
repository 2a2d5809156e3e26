// Package ready tells the service manager that a process does its work: systemd's
// sd_notify protocol, one datagram.
package ready

import (
	"context"
	"fmt"
	"net"
	"os"
)

// Tell says so once. Where no service manager asked to be told it does nothing.
func Tell(ctx context.Context) error {
	path := os.Getenv("NOTIFY_SOCKET") // "@" begins an abstract address, for net as well
	if path == "" {
		return nil
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unixgram", path)
	if err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("READY=1")); err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	return nil
}
