package main

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/understudy-dr/understudy/controlplane/api"
	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/push"
)

// planeOf is the control plane as a push needs it, over the API like everything else.
type planeOf struct{ *client }

// tokenLife is short: the token is used within seconds.
const tokenLife = 10 * time.Minute

// Clock implements push.Plane.
func (p planeOf) Clock(ctx context.Context) (ahead, unsure time.Duration, err error) {
	// The first request makes the connection, the second tells the way there and back.
	if _, err := get[api.System](ctx, p.client, "/v1/system", nil); err != nil {
		return 0, 0, err
	}
	asked := time.Now()
	s, err := get[api.System](ctx, p.client, "/v1/system", nil)
	took := time.Since(asked)
	return s.Time.Sub(asked.Add(took / 2)), took / 2, err
}

// Token implements push.Plane.
func (p planeOf) Token(ctx context.Context, note string) (secret, id string, err error) {
	made, err := send[api.NewToken](ctx, p.client, http.MethodPost, "/v1/tokens", map[string]any{
		"note": note, "life_seconds": int64(tokenLife.Seconds()),
	})
	return made.Secret, made.ID, err
}

// Revoke implements push.Plane.
func (p planeOf) Revoke(ctx context.Context, id string) error {
	_, err := send[struct{}](ctx, p.client, http.MethodDelete, "/v1/tokens/"+url.PathEscape(id), nil)
	return err
}

// UsedBy implements push.Plane.
func (p planeOf) UsedBy(ctx context.Context, id string) (string, error) {
	tokens, err := list[inventory.Token](ctx, p.client, "/v1/tokens", nil)
	for _, t := range tokens {
		if t.ID == id {
			return t.UsedBy, nil
		}
	}
	return "", err
}

// Machine implements push.Plane.
func (p planeOf) Machine(ctx context.Context, id string) (push.Machine, error) {
	m, err := get[api.Machine](ctx, p.client, machinePath(id), nil)
	return push.Machine{ID: m.ID.String(), Version: m.Host.AgentVersion, Reported: m.Reported}, err
}

// Remove implements push.Plane.
func (p planeOf) Remove(ctx context.Context, id string) error {
	_, err := send[struct{}](ctx, p.client, http.MethodDelete, machinePath(id), nil)
	return err
}

// Protect implements push.Plane.
func (p planeOf) Protect(ctx context.Context, id string, disks []string) error {
	_, err := send[api.Items[inventory.Disk]](ctx, p.client, http.MethodPost, machinePath(id)+"/protect", map[string]any{"disks": disks})
	return err
}

// relays are where machines send their logs.
func (c *client) relays(ctx context.Context) ([]string, error) {
	s, err := get[api.System](ctx, c, "/v1/system", nil)
	return s.Relays, err
}
