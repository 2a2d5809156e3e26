package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/agent/enrol"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// stage is a laboratory with a control plane.
type stage struct {
	*lab.Lab
	site  *lab.Site
	api   *http.Client
	token string

	sender *enrol.Identity // of the machine that limit speaks for, once there is one
}

// onStage runs f on a new stage and removes that.
func (b *bench) onStage(ctx context.Context, f func(*stage) error) (err error) {
	l, err := lab.New(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err == nil || ctx.Err() != nil {
			err = errors.Join(err, l.Close())
			return
		}
		logs, cerr := l.CloseKeepingLogs()
		err = errors.Join(err, cerr, fmt.Errorf("logs are in %s", logs))
	}()
	s := &stage{Lab: l, api: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // our own process, on loopback
	}}}
	if s.site, err = l.NewSite(ctx, b.bin); err != nil {
		return err
	}
	if err := s.site.Start(ctx); err != nil {
		return err
	}
	token, err := os.ReadFile(filepath.Join(s.site.Data, "operator.token"))
	if err != nil {
		return err
	}
	s.token = strings.TrimSpace(string(token))
	return f(s)
}

// machine enrols and starts an agent.
func (s *stage) machine(ctx context.Context, name string, flags ...string) (*lab.Machine, error) {
	m := s.site.NewMachine(name, flags...)
	if err := m.Enrol(ctx); err != nil {
		return nil, err
	}
	return m, m.Agent.Start()
}

// memory is the name of a disk that lies in memory.
func memory(name string) string { return filepath.Join("run", name) }

// disk attaches a disk of this size. One on the real disk bypasses the page cache, so
// that what is measured is that disk.
func (s *stage) disk(ctx context.Context, name string, size int64) (*lab.Disk, error) {
	d, err := s.NewDisk(ctx, name, size)
	if err != nil || strings.HasPrefix(d.File, s.RunDir()) {
		return d, err
	}
	_, err = command(ctx, "losetup", "--direct-io=on", d.Device)
	return d, err
}

// seen is what the operator sees of a machine.
type seen struct {
	lab.View
	newest struct {
		Replication struct {
			Epoch uint64 `json:"point_epoch"`
		} `json:"replication"`
	}
}

// epoch is that of the newest recoverable point; 0 if there is none.
func (v seen) epoch() uint64 { return v.newest.Replication.Epoch }

// view asks for it, without a process for each question.
func (s *stage) view(ctx context.Context, m *lab.Machine) (seen, error) {
	var v seen
	var text json.RawMessage
	if err := s.call(ctx, http.MethodGet, "/v1/machines/"+m.ID(), &text); err != nil {
		return v, err
	}
	return v, errors.Join(json.Unmarshal(text, &v.View), json.Unmarshal(text, &v.newest))
}

// call asks the API as its operator and reads the answer into out.
func (s *stage) call(ctx context.Context, method, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+s.site.API+path, strings.NewReader("{}"))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.api.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s %s: status %d: %s", method, path, resp.StatusCode, text)
	}
	return json.Unmarshal(text, out)
}

// pointAfter waits until a point of after this moment is in the vault.
func (s *stage) pointAfter(ctx context.Context, m *lab.Machine, at time.Time) error {
	return s.await(ctx, m, "point of after "+at.Format(time.RFC3339Nano), func(v seen) bool { return v.PointTime().After(at) })
}

// epochAfter waits until a point of a later epoch than this one is in the vault.
func (s *stage) epochAfter(ctx context.Context, m *lab.Machine, epoch uint64) error {
	return s.await(ctx, m, fmt.Sprintf("point behind epoch %d", epoch), func(v seen) bool { return v.epoch() > epoch })
}

func (s *stage) await(ctx context.Context, m *lab.Machine, what string, is func(seen) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, fmt.Errorf("machine %s has no %s", m.Name, what))
	defer cancel()
	for {
		v, err := s.view(ctx, m)
		if err == nil && is(v) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: it is %s (%s)%s", context.Cause(ctx), v.Status.State, v.Status.Message, m.Agent.Tail())
		case <-time.After(25 * time.Millisecond):
		}
	}
}

// protect has a disk protected and waits for the first point.
func (s *stage) protect(ctx context.Context, m *lab.Machine, d *lab.Disk) error {
	if err := m.SetRPO(ctx, 3*time.Second); err != nil {
		return err
	}
	if err := m.Protect(ctx, d); err != nil {
		return err
	}
	return s.pointAfter(ctx, m, time.Now())
}

// interruptions counts how often the agent's log was interrupted: each is a fallback to
// the dirty map.
func interruptions(m *lab.Machine) int {
	text, err := os.ReadFile(m.Agent.Log)
	if err != nil {
		return 0
	}
	return strings.Count(string(text), `msg="log interrupted"`)
}
