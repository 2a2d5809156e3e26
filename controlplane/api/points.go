package api

import "context"

// PointAsked answers a request for a point.
type PointAsked struct {
	Point uint64 `json:"point" doc:"The request's number; it is answered when the machine's protection.point.once reaches it."`
}

type createPointInput struct {
	MachinePath
	Body struct {
		Name string `json:"name,omitempty" maxLength:"128" doc:"What the point is called; it begins with a letter."`
		App  bool   `json:"app,omitempty" doc:"Application-consistent: the machine's scripts run, and its file systems are frozen."`
	}
}

func (s *server) createPoint(ctx context.Context, in *createPointInput) (*body[PointAsked], error) {
	m, err := s.Inventory.Resolve(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	number, err := s.Inventory.CreatePoint(ctx, m.ID, in.Body.Name, in.Body.App)
	return answer(PointAsked{Point: number}, err)
}
