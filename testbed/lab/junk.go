package lab

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"net"
	"time"
)

// Junk sends what strangers and scanners send to a TLS port, this many times over: raw
// bytes, plain text, and a handshake without a certificate followed by noise.
func Junk(ctx context.Context, addr string, n int) error {
	var d net.Dialer
	for i := range n {
		c, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		noise := make([]byte, 1+i*997)
		if _, err := rand.Read(noise); err != nil {
			return err
		}
		switch i % 4 {
		case 0:
			_, _ = c.Write(noise) // the other side may close at any byte: that is its answer
		case 1:
			_, _ = c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
		case 2:
			_, _ = c.Write([]byte("UNDERSTUDY 1 agent 0\n"))
		case 3:
			t := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
			_, _ = t.Write(noise)
		}
		if i%3 == 0 {
			_, _ = c.Read(noise[:1])
		}
		c.Close()
	}
	return datagrams(ctx, addr, n)
}

// datagrams are the same for QUIC.
func datagrams(ctx context.Context, addr string, n int) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range n {
		noise := make([]byte, 1+i*29)
		if _, err := rand.Read(noise); err != nil {
			return err
		}
		_, _ = c.Write(noise) // refused where nobody listens
	}
	return nil
}
