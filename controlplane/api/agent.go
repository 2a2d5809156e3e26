package api

import (
	"context"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
)

// maxWait bounds how long a request for the desired state may wait for a change. It
// lies below every timeout of the server.
const maxWait = 25 * time.Second

type enrolInput struct {
	Body desired.EnrolRequest
}

func (s *server) enrol(ctx context.Context, in *enrolInput) (*body[desired.Credentials], error) {
	return answer(s.Enrolment.Enrol(ctx, in.Body))
}

type renewInput struct {
	Body desired.RenewRequest
}

func (s *server) renew(ctx context.Context, in *renewInput) (*body[desired.Credentials], error) {
	return answer(s.Enrolment.Renew(ctx, callerOf(ctx).agent.Machine, in.Body))
}

type desiredInput struct {
	After uint64 `query:"after" doc:"The generation the agent has; an answer comes when there is another."`
	Wait  int    `query:"wait" minimum:"0" maximum:"25" doc:"Seconds to wait for it."`
}

func (s *server) desired(ctx context.Context, in *desiredInput) (*body[desired.State], error) {
	wait := min(time.Duration(in.Wait)*time.Second, maxWait)
	state, err := s.Inventory.AwaitDesired(ctx, callerOf(ctx).agent.Machine, in.After, wait)
	state.Relays = s.Relays
	return answer(state, err)
}

type reportInput struct {
	Body desired.Report
}

func (s *server) report(ctx context.Context, in *reportInput) (*body[desired.ReportReply], error) {
	reply, err := s.Inventory.Record(ctx, callerOf(ctx).agent.Machine, in.Body)
	if p := in.Body.Protection; err == nil && p != nil && p.Verify != nil && len(p.Verify.Findings) > 0 {
		s.Found()
	}
	return answer(reply, err)
}
