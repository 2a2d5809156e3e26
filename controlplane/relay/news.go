package relay

import (
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/controlplane/relay/spool"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/wire"
)

func (s *Server) event(e Event) {
	e.At = time.Now()
	s.conf.Event(e)
}

func (s *Server) handshakeRefused(remote string, err error) {
	s.metrics.refused.Inc()
	s.conf.Log.Info("handshake refused", "remote", remote, "err", err)
	if s.mayTell(EventHandshakeRefused, block.MachineID{}) {
		s.event(Event{Type: EventHandshakeRefused, Message: fmt.Sprintf("a connection from %s was refused: %v", remote, err),
			Remedy: "if it is one of your machines, enrol it again and compare its clock with this one"})
	}
}

// bannerRefused tells of a peer that proved itself and speaks another protocol.
func (s *Server) bannerRefused(peer wire.Peer, err error) {
	s.conf.Log.Info("banner refused", "remote", peer.Remote, "machine", peer.Machine, "err", err)
	other := errors.Is(err, wire.ErrOlder) || errors.Is(err, wire.ErrNewer) || errors.Is(err, wire.ErrNotOurs)
	if other && s.mayTell(EventRefused, peer.Machine) {
		s.event(Event{Machine: peer.Machine, Type: EventRefused, Message: fmt.Sprintf("machine %s at %s: %v (%s)", peer.Machine, peer.Remote, err, wire.CodeVersion),
			Remedy: "upgrade the older of the two sides"})
	}
}

// tellEvery bounds events that strangers or a failing vault could make without end.
const tellEvery = time.Minute

// news is what is told at most once a while: of one machine, or of the relay.
type news struct {
	kind    EventType
	machine block.MachineID
}

// mayTell reports whether such an event was not told for a while.
func (s *Server) mayTell(kind EventType, machine block.MachineID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := news{kind, machine}
	if now := time.Now(); now.Sub(s.told[n]) >= tellEvery {
		s.told[n] = now
		return true
	}
	return false
}

// spoolTrouble is told when the spool stops taking frames, and with nil when it goes
// on. Credit follows: a failing spool grants none.
func (s *Server) spoolTrouble(err error) {
	switch {
	case err == nil:
		s.event(Event{Type: EventSpoolRecovered, Message: "the spool takes frames again"})
		s.feed()
	case errors.Is(err, spool.ErrFull):
		s.event(Event{Type: EventSpoolFull, Message: fmt.Sprintf("the spool in %s has reached its limit of %d bytes; agents hold their frames back", s.conf.SpoolDir, s.conf.SpoolLimit),
			Remedy: "see why the vault does not take frames as fast as they come, or raise the spool's limit; nothing is lost meanwhile"})
	default:
		s.event(Event{Type: EventSpoolFailing, Message: fmt.Sprintf("the spool in %s does not take frames: %v", s.conf.SpoolDir, err),
			Remedy: "free space on the spool's disk or replace it; agents hold their frames back and the relay goes on by itself"})
	}
}
