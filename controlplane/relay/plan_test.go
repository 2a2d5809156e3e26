package relay

import (
	"context"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/relay/spool"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// TestHeldFramesDoNotKeepTheVaultFromBeingAsked: a relay that starts while the vault
// cannot be asked believes its spool, in which a base may be missing that the vault has
// long since. All that waits is held for it, so nothing but another question can help; and
// one that was answered is not put again.
func TestHeldFramesDoNotKeepTheVaultFromBeingAsked(t *testing.T) {
	m := newMachine(block.MachineID{1})
	m.known = true
	m.committed.Epoch = 1
	mark := spool.NewEntry(frame.Header{Kind: frame.KindMark, Epoch: 1, First: 13, Last: 13}, &frame.Mark{Type: frame.MarkBaseComplete, BaseFrames: 1})
	m.log = []waiting{{mark, time.Now()}}
	s := &Server{ctx: context.Background()}
	s.ready.init()
	if s.plan(m); m.queued {
		t.Fatal("a machine whose frames are held, and whose vault answered, is busy for ever")
	}
	m.failures = 1
	if s.plan(m); !m.queued {
		t.Error("after a failure nobody asks the vault again")
	}
}
