//go:build unix

package wire_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/wire"
	"github.com/understudy-dr/understudy/pkg/wire/wiretest"
)

// cpu is the processor time of the whole process.
func cpu() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkOneConnection moves 1 MiB frames over one channel on loopback, with a
// window of 16 MiB like a relay's, and reports the CPU of both sides together.
func BenchmarkOneConnection(b *testing.B) {
	for _, by := range []wire.Transport{wire.TCP, wire.QUIC} {
		b.Run(string(by), func(b *testing.B) { oneConnection(b, by, 1<<20) })
	}
}

func oneConnection(b *testing.B, by wire.Transport, size int) {
	ca, machine := wiretest.NewCA(b), block.NewMachineID()
	l := listen(b, ca, nil)
	go sink(l)
	link, err := wire.Dial(b.Context(), l.Addr().String(), ca.AgentTLS(machine), by)
	if err != nil {
		b.Fatal(err)
	}
	defer link.Close()
	s, err := link.Open(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	c, err := wire.Greet(s, wire.RoleAgent, "bench")
	if err != nil {
		b.Fatal(err)
	}
	raw := makeFrame(b, machine, 1, size)
	credit := make(chan struct{}, 16)
	go func() {
		for {
			if _, err := c.Read(nil); err != nil {
				return
			}
			<-credit
		}
	}()
	b.SetBytes(int64(size))
	b.ResetTimer()
	before := cpu()
	for range b.N {
		credit <- struct{}{}
		if err := c.Write(wire.Frame{Raw: raw}); err != nil {
			b.Fatal(err)
		}
	}
	for range cap(credit) {
		credit <- struct{}{}
	}
	b.StopTimer()
	b.ReportMetric((cpu()-before).Seconds()/(float64(b.N)*float64(size)/(1<<30)), "cpu-s/GiB")
}

// sink acknowledges frames and drops them.
func sink(l *wire.Listener) {
	s, err := l.Accept(context.Background())
	if err != nil {
		return
	}
	c, err := wire.Greet(s, wire.RoleRelay, "bench")
	if err != nil {
		return
	}
	var buf []byte
	for {
		m, err := c.Read(buf)
		if err != nil {
			return
		}
		if f, ok := m.(wire.Frame); ok {
			buf = f.Raw
			if c.Write(wire.Ack{}) != nil {
				return
			}
		}
	}
}
