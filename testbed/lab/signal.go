package lab

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// CloseOnSignal closes the lab and ends the program when it is interrupted. It is for
// tests, which have no way of their own to unwind; a program with a context uses that.
func (l *Lab) CloseOnSignal() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	l.OnClose(func() {
		signal.Stop(c)
		close(done)
	})
	go func() {
		select {
		case <-done:
		case s := <-c:
			if err := l.Close(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			os.Exit(128 + int(s.(syscall.Signal)))
		}
	}()
}
