package transport

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/agent/ship"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// TestCutAtEveryByte cuts a line after 1, 2, 3… bytes, in each direction, while the
// agent has something to send: its whole session is shorter than the last cut. Nothing
// may be lost and nothing doubled, wherever the cut falls: in a handshake, a banner, a
// hello, a frame's header or payload, an acknowledgement. Every byte takes minutes and
// is asked for by the environment; else each run takes another eleventh of them.
func TestCutAtEveryByte(t *testing.T) {
	step := 11
	if os.Getenv("UNDERSTUDY_EVERY_BYTE") != "" {
		step = 1
	}
	for _, d := range []direction{up, down} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			s, j := newStage(t, nil), newJournal(t)
			p := newProxy(t, s.conf.Addr)
			j.begin(frame.ReasonInitial)
			c, _ := s.ship(j, func(conf *ship.Config) {
				conf.Addr, conf.Log = p.l.Addr().String(), nil
				conf.Backoff = ship.Backoff{Min: time.Microsecond, Max: time.Microsecond}
			})
			for n := 1 + rand.IntN(step); ; n += step {
				before, cuts := c.Stats().Spooled, p.counted()
				j.write(512)
				p.limit(d, n)
				p.cut()
				eventually(t, "a cut, or all is through", func() bool { return p.counted() >= cuts+2 || c.Stats().Spooled == j.newest() })
				// Once a session gets further than its first frame without being cut, every
				// place in it has had its cut.
				if st := c.Stats(); st.Spooled == j.newest() && before == j.newest()-3 && p.counted() == cuts+1 {
					t.Logf("a session has %d bytes %s", n, d)
					break
				}
			}
			p.limit(d, -1)
			p.cut()
			s.arrived(j)
		})
	}
}

// TestCutBase does it to a base channel, at fewer places: what matters is that a copy
// which goes on behind each Welcome makes a whole base.
func TestCutBase(t *testing.T) {
	s, j := newStage(t, nil), newJournal(t)
	p := newProxy(t, s.conf.Addr)
	j.begin(frame.ReasonInitial)
	const frames = 200
	copier := newCopier(t, j, frames)
	c, _ := s.ship(j, func(conf *ship.Config) {
		conf.Addr, conf.OnWelcome = p.l.Addr().String(), copier.welcome
		conf.Backoff = ship.Backoff{Min: time.Microsecond, Max: time.Microsecond}
	})
	copier.client.Store(c)
	for n := 6000; !copier.finished(); n += 9973 {
		cuts := p.counted()
		p.limit(up, n)
		eventually(t, "a cut", func() bool { return p.counted() > cuts || copier.finished() })
	}
	p.limit(up, -1)
	p.cut()
	s.arrived(j)
	got := s.vault.Base(j.machine, 1)
	if len(got) != frames {
		t.Fatalf("%d base frames, want %d", len(got), frames)
	}
	for i, raw := range got {
		f, err := frame.Parse(raw)
		if err != nil || f.First != block.Seq(i+1) {
			t.Fatalf("base frame %d: %v", i+1, err)
		}
	}
	if p.counted() < 10 {
		t.Errorf("only %d cuts", p.counted())
	}
}
