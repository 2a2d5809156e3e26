package wire_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
	"github.com/understudy-dr/understudy/pkg/wire/wiretest"
)

func listen(t testing.TB, ca *wiretest.CA, refused func(string, error), options ...wiretest.Option) *wire.Listener {
	t.Helper()
	l, err := wire.Listen(t.Context(), "127.0.0.1:0", ca.RelayTLS(options...), refused)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// makeFrame is a valid log frame of n payload bytes.
func makeFrame(t testing.TB, m block.MachineID, seq block.Seq, n int) []byte {
	t.Helper()
	b := frame.NewBuilder(m)
	b.Reset(frame.KindLog, 1, seq, time.Unix(1, 0))
	if err := b.Add(block.DiskIDFromName("d"), frame.OpWrite, block.Extent{Off: 0, Len: int64(n)}, bytes.Repeat([]byte{7}, n)); err != nil {
		t.Fatal(err)
	}
	raw, err := b.Append(nil, seq, time.Unix(2, 0), frame.CompressNever)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestBothTransportsCarryFramesAndKnowTheMachine(t *testing.T) {
	for _, by := range []wire.Transport{wire.TCP, wire.QUIC} {
		t.Run(string(by), func(t *testing.T) {
			ca, machine := wiretest.NewCA(t), block.NewMachineID()
			l := listen(t, ca, nil)
			echo := make(chan error, 1)
			go func() { echo <- echoOne(l, machine) }()

			link, err := wire.Dial(t.Context(), l.Addr().String(), ca.AgentTLS(machine), by)
			if err != nil {
				t.Fatal(err)
			}
			defer link.Close()
			s, err := link.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c, err := wire.Greet(s, wire.RoleAgent, "test")
			if err != nil {
				t.Fatal(err)
			}
			if p := c.Peer(); p.Role != wire.RoleRelay || p.Transport != by {
				t.Errorf("peer %+v", p)
			}
			raw := makeFrame(t, machine, 1, 3<<20)
			if err := c.Write(wire.Frame{Raw: raw}); err != nil {
				t.Fatal(err)
			}
			m, err := c.Read(nil)
			if f, ok := m.(wire.Frame); !ok || !bytes.Equal(f.Raw, raw) {
				t.Fatalf("got %T, %v", m, err)
			}
			if m, err = c.Read(nil); !errors.Is(asError(m), &wire.Error{Code: wire.CodeBusy}) {
				t.Fatalf("want the refusal, got %v, %v", m, err)
			}
			if err := <-echo; err != nil {
				t.Fatal(err)
			}
		})
	}
}

func asError(m wire.Message) error {
	e, _ := m.(error)
	return e
}

func echoOne(l *wire.Listener, machine block.MachineID) error {
	s, err := l.Accept(context.Background())
	if err != nil {
		return err
	}
	c, err := wire.Greet(s, wire.RoleRelay, "test")
	if err != nil {
		return err
	}
	if p := c.Peer(); p.Machine != machine || p.Role != wire.RoleAgent {
		return errors.New("the peer is not the machine in the certificate")
	}
	m, err := c.Read(nil)
	if err != nil {
		return err
	}
	if err := c.Write(m); err != nil {
		return err
	}
	if err := c.Refuse(wire.Refuse(wire.CodeBusy, "try later", "full")); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
