package push

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

//go:embed scripts/stage.sh
var stageScript string

// stage is a directory on the target with what was copied there. It lasts as long as the
// session that made it: the target removes it by itself, whatever becomes of this process.
type stage struct {
	dir     string
	session *ssh.Session
	in      io.WriteCloser
	ended   chan struct{} // closed when the target has removed it
}

// noPlaceError is a target without a directory to copy to.
type noPlaceError struct{ places []string }

func (e *noPlaceError) Error() string { return strings.Join(e.places, "; ") }

const stagedAgent = "understudy-agent"

// cleanupTime is how long the target may take to remove its directory.
const cleanupTime = 10 * time.Second

// stage copies files to the target, the agent's program first.
func (p *pusher) stage(ctx context.Context, t *target, files ...Agent) (*stage, error) {
	session, err := t.client.NewSession()
	if err != nil {
		return nil, &scriptError{host: t.name, code: -1, err: err}
	}
	s := &stage{session: session, ended: make(chan struct{})}
	out, outErr := session.StdoutPipe()
	in, inErr := session.StdinPipe()
	if err := errors.Join(outErr, inErr); err != nil {
		return nil, errors.Join(err, session.Close())
	}
	s.in = in
	var complaint limited
	session.Stderr = &complaint
	command, before := t.rootCommand(stageVariables(files) + stageScript)
	if err := session.Start(command); err != nil {
		return nil, errors.Join(&scriptError{host: t.name, code: -1, err: err}, session.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()
	sent := make(chan error, 1)
	go func() { sent <- p.send(t, in, before, files) }()
	places, err := s.read(out)
	if s.dir != "" {
		go func() { _ = session.Wait(); close(s.ended) }() // however it ends
		return s, <-sent
	}
	ended := session.Wait()
	_ = session.Close()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case len(places) > 0:
		return nil, &noPlaceError{places}
	default:
		return nil, fmt.Errorf("copying the agent to %s: %w: %s", t.name, errors.Join(err, ended), lastWords(complaint.String()))
	}
}

func stageVariables(files []Agent) string {
	var sizes, sums, names []string
	for i, f := range files {
		sizes, sums, names = append(sizes, strconv.FormatInt(f.Size, 10)), append(sums, f.Sum), append(names, stagedName(i, f))
	}
	return fmt.Sprintf("sizes=%s sums=%s names=%s\n", quote(strings.Join(sizes, " ")), quote(strings.Join(sums, " ")), quote(strings.Join(names, " ")))
}

// stagedName is what a file is called there: package managers look at the ending.
func stagedName(i int, f Agent) string {
	if i == 0 {
		return stagedAgent
	}
	return "package" + path.Ext(f.Path)
}

// read is what the target says until it has everything.
func (s *stage) read(out io.Reader) (places []string, err error) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if dir, ok := strings.CutPrefix(lines.Text(), "staged="); ok {
			s.dir = dir
			return nil, nil
		}
		if place, ok := strings.CutPrefix(lines.Text(), "place="); ok {
			places = append(places, place)
		}
	}
	return places, lines.Err()
}

func (p *pusher) send(t *target, to io.Writer, before string, files []Agent) error {
	if _, err := io.WriteString(to, before); err != nil {
		return fmt.Errorf("copying the agent to %s: %w", t.name, err)
	}
	for _, a := range files {
		f, err := os.Open(a.Path)
		if err != nil {
			return fmt.Errorf("copying the agent to %s: %w", t.name, err)
		}
		_, err = io.Copy(to, &progress{r: f, total: a.Size, tell: func(percent int64) { p.tell(t, "copy", "%d%% of %d MiB", percent, a.Size>>20) }})
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("copying the agent to %s: %w", t.name, err)
		}
	}
	return nil
}

// progress tells each twentieth that was read.
type progress struct {
	r           io.Reader
	done, total int64
	told        int64 // twentieths
	tell        func(percent int64)
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.done += int64(n)
	if part := p.done * 20 / max(p.total, 1); part > p.told {
		p.told = part
		p.tell(part * 5)
	}
	return n, err
}

// path is where the file of this name is.
func (s *stage) path(name string) string { return s.dir + "/" + name }

// close has the target remove the directory, and waits for it.
func (s *stage) close() {
	_ = s.in.Close() // it ends by this
	select {
	case <-s.ended:
	case <-time.After(cleanupTime):
	}
	_ = s.session.Close()
}
