package ship

import (
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// Stats is a client's state for metrics and for people.
type Stats struct {
	Connected bool
	Transport wire.Transport // of the present session
	Since     time.Time      // when it, or the pause, began
	RTT       time.Duration  // of the last heartbeat

	Sessions  uint64 // begun since the client was made
	LastError string // why the last one ended, or did not come about
	Retry     time.Time

	LogFrames, LogBytes   uint64 // sent, repetitions included
	BaseFrames, BaseBytes uint64
	LogCredit, BaseCredit int64 // bytes the relay would take now
	// BaseQueue is what waits to be sent.
	BaseQueue, BaseQueueBytes int64

	Epoch                      block.Epoch // of Spooled
	Spooled, Committed         block.Seq
	BaseEpoch                  block.Epoch
	BaseSpooled, BaseCommitted uint64
	// RPOTarget is the policy's, by the last Welcome.
	RPOTarget time.Duration
}

// further reports whether the relay has more than it had at t.
func (s Stats) further(t Stats) bool {
	return s.Spooled > t.Spooled || s.BaseEpoch > t.BaseEpoch || s.BaseEpoch == t.BaseEpoch && s.BaseSpooled > t.BaseSpooled
}

// Stats is the client's state now.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	st := c.stats
	c.mu.Unlock()
	st.RTT = time.Duration(c.rtt.Load())
	st.LogFrames, st.LogBytes = c.logFrames.Load(), c.logBytes.Load()
	st.BaseFrames, st.BaseBytes = c.baseFrames.Load(), c.baseBytes.Load()
	n, bytes := c.base.size()
	st.BaseQueue, st.BaseQueueBytes = int64(n), bytes
	return st
}

func (c *Client) connected(by wire.Transport, w wire.Welcome) {
	c.mu.Lock()
	s := &c.stats
	s.Connected, s.Transport, s.Since, s.LastError, s.Retry = true, by, time.Now(), "", time.Time{}
	s.Sessions++
	s.Epoch, s.Spooled, s.Committed = w.Epoch, w.Spooled, w.Committed
	s.BaseEpoch, s.BaseSpooled, s.BaseCommitted = w.BaseEpoch, w.SpooledBase, w.CommittedBase
	s.RPOTarget = w.RPOTarget
	c.mu.Unlock()
	c.conf.Log.Info("relay session", "relay", c.conf.Addr, "transport", by, "spooled", w.Spooled, "committed", w.Committed)
}

func (c *Client) disconnected(err error, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.stats.Connected, c.stats.Since, c.stats.Retry = false, now, now.Add(wait)
	if err != nil {
		c.stats.LastError = err.Error()
	}
}

// note keeps an acknowledgement for Stats.
func (c *Client) note(ch *channel, a wire.Ack) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.stats
	if ch.kind == wire.Base {
		s.BaseEpoch, s.BaseSpooled, s.BaseCommitted, s.BaseCredit = a.Epoch, a.Spooled, a.Committed, ch.room()
		return
	}
	s.Epoch, s.Spooled, s.Committed, s.LogCredit = a.Epoch, block.Seq(a.Spooled), block.Seq(a.Committed), ch.room()
}
