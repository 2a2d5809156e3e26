package main

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
)

const reachTimeout = 5 * time.Second

// reachAll tells for each address whether something there takes connections from here.
func reachAll(ctx context.Context, addrs []string) []capture.Check {
	checks := make([]capture.Check, len(addrs))
	var all sync.WaitGroup
	for i, addr := range addrs {
		all.Go(func() { checks[i] = reach(ctx, addr) })
	}
	all.Wait()
	return checks
}

func reach(ctx context.Context, addr string) capture.Check {
	c := capture.Check{Feature: "way to " + addr, Answer: capture.Yes}
	began := time.Now()
	conn, err := (&net.Dialer{Timeout: reachTimeout}).DialContext(ctx, "tcp", addr)
	if err == nil {
		_ = conn.Close() // nothing was said
		c.Detail = "answers after " + time.Since(began).Round(time.Millisecond/10).String()
		return c
	}
	c.Answer, c.Detail, c.Remedy = capture.No, err.Error(), "check the address and port"
	timeout := net.Error(nil)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		c.Remedy = "nothing listens there, or a firewall refuses: start the control plane, check the port"
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout():
		c.Remedy = "a firewall drops it, or the address is wrong: let this machine connect to it by TCP"
	case errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH):
		c.Remedy = "give this machine a route to it"
	}
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) {
		c.Remedy = "this machine cannot look the name up: mend its resolver, or use an address"
	}
	return c
}
