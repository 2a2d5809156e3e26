package api

import (
	"context"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
)

// VerifyAsked answers a request for a proof.
type VerifyAsked struct {
	Verify uint64 `json:"verify" doc:"The request's number; it is answered when the machine's protection.verify.last.once reaches it."`
}

func (s *server) verify(ctx context.Context, in *MachinePath) (*body[VerifyAsked], error) {
	m, err := s.Inventory.Resolve(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	number, err := s.Inventory.Verify(ctx, m.ID)
	return answer(VerifyAsked{Verify: number}, err)
}

type verifyAlwaysInput struct {
	MachinePath
	Body struct {
		Every int64 `json:"every_seconds" minimum:"0" maximum:"315360000" doc:"Begin another proof this long after the last began; 0: only when asked."`
		Rate  int64 `json:"bytes_per_second,omitempty" minimum:"0" doc:"Read no faster; 0: unlimited."`
	}
}

func (s *server) verifyAlways(ctx context.Context, in *verifyAlwaysInput) (*body[desired.Verify], error) {
	m, err := s.Inventory.Resolve(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	return answer(s.Inventory.VerifyAlways(ctx, m.ID, time.Duration(in.Body.Every)*time.Second, in.Body.Rate))
}
