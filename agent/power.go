package main

import (
	"context"
	"time"
)

// sayWithin is how long the last report before a switching off may take. The file systems
// are frozen meanwhile.
const sayWithin = 5 * time.Second

// powerOff reports that the machine is switched off, and does it: also if the report did
// not come through, since nobody can tell then whether it was heard. It returns only if
// the machine goes on.
func (s *service) powerOff(ctx context.Context) error {
	say, cancel := context.WithTimeout(ctx, sayWithin)
	defer cancel()
	if err := s.reportOnce(say); err != nil {
		s.log.Warn("switching off without a word", "err", err)
	}
	return switchOff()
}
