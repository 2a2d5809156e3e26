package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/understudy-dr/understudy/controlplane/push"
)

// What a machine fetches that installs its agent by itself. Anybody may have it: there is
// no secret in it, and a machine that has not enrolled can prove nothing.

// file is an answer that is not JSON.
type file struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

func (s *server) installAuthority(context.Context, *struct{}) (*file, error) {
	return &file{ContentType: "application/pkix-cert", Body: s.Authority.DER()}, nil
}

func (s *server) installScript(context.Context, *struct{}) (*file, error) {
	return &file{ContentType: "text/x-shellscript", Body: []byte(push.AgentScript)}, nil
}

type archPath struct {
	Arch string `path:"arch" enum:"amd64,arm64"`
}

func (s *server) installAgent(_ context.Context, in *archPath) (*huma.StreamResponse, error) {
	path, err := s.Agents.Path(in.Arch)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		defer f.Close()
		ctx.SetHeader("Content-Type", "application/octet-stream")
		ctx.SetHeader("Content-Length", strconv.FormatInt(info.Size(), 10))
		_, w := unwrap(ctx)
		sendSlowly(w, f)
	}}, nil
}

const (
	downloadPart = 256 << 10 // bytes
	downloadTime = time.Minute
)

// sendSlowly lets a large answer take its time, as long as each part of it arrives within
// a minute: the server's own limit is for answers.
func sendSlowly(w http.ResponseWriter, r io.Reader) {
	deadline := http.NewResponseController(w)
	for {
		if err := deadline.SetWriteDeadline(time.Now().Add(downloadTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return
		}
		if _, err := io.CopyN(w, r, downloadPart); err != nil {
			return // the end, or a client that is gone: it sees by the length that it has not all
		}
	}
}
