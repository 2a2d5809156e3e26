package lab

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// interrupted closes the labs that asked for it when the program is interrupted.
// Signals belong to the program, so this does, too.
var interrupted struct {
	once sync.Once
	mu   sync.Mutex
	labs map[*Lab]bool
}

// CloseOnSignal closes the lab, and all others that asked for it, and ends the program
// when it is interrupted. It is for tests, which have no way of their own to unwind; a
// program with a context uses that.
func (l *Lab) CloseOnSignal() {
	interrupted.mu.Lock()
	defer interrupted.mu.Unlock()
	if interrupted.labs == nil {
		interrupted.labs = map[*Lab]bool{}
	}
	interrupted.labs[l] = true
	l.OnClose(func() {
		interrupted.mu.Lock()
		defer interrupted.mu.Unlock()
		delete(interrupted.labs, l)
	})
	interrupted.once.Do(func() {
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		go func() { closeAll(<-c) }()
	})
}

func closeAll(s os.Signal) {
	for {
		interrupted.mu.Lock()
		var l *Lab
		for l = range interrupted.labs {
			delete(interrupted.labs, l)
			break
		}
		interrupted.mu.Unlock()
		if l == nil {
			os.Exit(128 + int(s.(syscall.Signal)))
		}
		if err := l.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}
