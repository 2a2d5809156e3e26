package lab

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

func TestProxyPassesCutsAndCloses(t *testing.T) {
	l := open(t)
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	p, err := l.NewProxy(t.Context(), echo.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	sent := bytes.Repeat([]byte("0123456789"), 10_000)
	if got := through(t, p, sent); got != len(sent) {
		t.Fatalf("%d of %d bytes came through an open proxy", got, len(sent))
	}
	p.CutWithin(50_000)
	for range 5 {
		if got := through(t, p, sent); got >= 50_000 {
			t.Errorf("%d bytes came back through a connection that is cut within 50000", got)
		}
	}
	if p.Cuts() != 5 {
		t.Errorf("%d cuts, want 5", p.Cuts())
	}
	p.CutWithin(0)
	p.Close()
	if got := through(t, p, sent); got != 0 {
		t.Errorf("%d bytes came through a closed proxy", got)
	}
	p.Open()
	if got := through(t, p, sent); got != len(sent) {
		t.Errorf("%d of %d bytes came through after it was opened again", got, len(sent))
	}
}

// through sends b, reads the echo, and says how much came back.
func through(t *testing.T, p *Proxy, b []byte) int {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr)
	if err != nil {
		return 0
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	go c.Write(b)
	n, _ := io.ReadFull(c, make([]byte, len(b)))
	return n
}
