package pipeline

import (
	"encoding/json"
	"fmt"

	"github.com/understudy-dr/understudy/agent/journal"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// memo is the state as the journal keeps it.
func (p *Pipeline) memo() (journal.State, error) {
	b, err := json.Marshal(p.State)
	return journal.State{Machine: p.Machine, Epoch: p.State.Epoch, LastSeq: p.w.at.Seq, Spooled: p.spooled, Committed: p.committed, Log: b}, err
}

// Recall reads the state that a journal recovered; the zero State if it is none of
// this machine's.
func Recall(r journal.Recovered) (State, error) {
	var s State
	if !r.Found || len(r.State.Log) == 0 {
		return s, nil
	}
	if err := json.Unmarshal(r.State.Log, &s); err != nil {
		return State{}, fmt.Errorf("pipeline: the journal's state cannot be read: %w", err)
	}
	if s.Copy < 0 || s.Copy > len(s.Copies) { // believed, no copy would be made and the base called complete
		return State{}, fmt.Errorf("pipeline: the journal's state makes no sense: at copy %d of %d", s.Copy, len(s.Copies))
	}
	if k := s.Proof.Pass; k != nil && (k.Disk < 0 || k.Disk >= len(k.Disks) || k.Off < 0) {
		s.Proof.Pass = nil // it begins again
	}
	return s, nil
}

// fill is how full the journal is, from 0 to 1.
func (p *Pipeline) fill() float64 {
	s := p.Journal.Stats()
	return float64(s.MemoryBytes+s.SpillBytes) / float64(max(s.MemorySize+s.SpillSize, 1))
}

// gauges shows the journal in a status.
func (p *Pipeline) gauges(s *desired.Protection) {
	j := p.Journal.Stats()
	s.Memory = desired.Gauge{Used: j.MemoryBytes, Size: j.MemorySize}
	s.Spill = desired.Gauge{Used: j.SpillBytes, Size: j.SpillSize}
	s.Oldest = j.Oldest
}
