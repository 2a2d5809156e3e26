package nbd

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestDrainAnswersWhatItHas stops the server while a flush is under way.
func TestDrainAnswersWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(8192)
		m.hold = make(chan struct{})
		c, stop := dial(t, Options{}, Export{Name: "sda", Image: m})
		c.enter(false)
		c.request(0, cmdFlush, 9, 0, 0)
		synctest.Wait() // the flush is in Sync
		ended := make(chan error)
		go func() { ended <- stop() }()
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
		close(m.hold)
		c.mustSimple(9, 0)
		c.mustEnd()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	})
}

// TestDrainCutsWhoDoesNotRead stops the server while a client ignores its answer.
func TestDrainCutsWhoDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stop := dial(t, Options{Grace: 5 * time.Second}, Export{Name: "sda", Image: newMemory(8192)})
		c.enter(false)
		c.request(0, cmdRead, 1, 0, 8192)
		synctest.Wait()
		start := time.Now()
		if err := stop(); err != nil || time.Since(start) != 5*time.Second {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
	})
}

func TestNewRefusesBadNames(t *testing.T) {
	for _, names := range [][]string{{""}, {"a\x00b"}, {"a", "a"}, {string(make([]byte, maxName+1))}} {
		var exports []Export
		for _, n := range names {
			exports = append(exports, Export{Name: n, Image: newMemory(16)})
		}
		if _, err := New(exports, Options{}); err == nil {
			t.Errorf("%.20q was taken", names)
		}
	}
}

func TestTooManyConnectionsAreTurnedAway(t *testing.T) {
	ln, err := Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := New([]Export{{Name: "sda", Image: newMemory(16)}}, Options{MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx, ln) }()
	var conns [2]net.Conn
	for i := range conns {
		if conns[i], err = net.Dial("tcp", ln.Addr().String()); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
		n, err := io.ReadFull(conns[i], make([]byte, 18))
		if (err == nil) != (i == 0) {
			t.Errorf("connection %d: %d bytes, %v", i, n, err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
