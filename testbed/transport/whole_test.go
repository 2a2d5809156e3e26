package transport

import (
	"testing"

	"github.com/understudy-dr/understudy/agent/ship"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// TestTheWholeWay sends an epoch with its base by both transports.
func TestTheWholeWay(t *testing.T) {
	for _, by := range []wire.Transport{wire.TCP, wire.QUIC} {
		t.Run(string(by), func(t *testing.T) {
			s, j := newStage(t, nil), newJournal(t)
			c, _ := s.ship(j, func(conf *ship.Config) { conf.Transport = by })
			j.begin(frame.ReasonInitial)
			for n := range uint64(5) {
				if err := c.SendBase(t.Context(), j.base(n+1, 1<<20), n+1); err != nil {
					t.Fatal(err)
				}
				j.write(64 << 10)
			}
			if err := c.FlushBase(t.Context()); err != nil {
				t.Fatal(err)
			}
			j.complete(5)
			j.write(4096)
			s.arrived(j)
			if n := len(s.vault.Base(j.machine, 1)); n != 5 {
				t.Errorf("%d base frames in the vault, want 5", n)
			}
			eventually(t, "the agent knows what is committed", func() bool {
				st := c.Stats()
				return st.Committed == j.newest() && st.BaseCommitted == 5 && st.Transport == by
			})
		})
	}
}
