package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/understudy-dr/understudy/controlplane/push"
)

// pushView shows a push: a line a host that changes on a terminal, else a line of JSON for
// each step.
type pushView struct {
	out   *printer
	live  bool
	in    *bufio.Reader
	hosts []string

	mu    sync.Mutex
	last  map[string]push.Event
	drawn int   // lines on the terminal that are ours
	err   error // of writing
}

func newPushView(out *printer, hosts []string, in io.Reader) *pushView {
	v := &pushView{out: out, hosts: hosts, last: map[string]push.Event{}, live: isTerminal(out.w) && !out.json}
	if v.live && isTerminal(in) {
		v.in = bufio.NewReader(in)
	}
	return v
}

func (v *pushView) tell(e push.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.live {
		v.err = errors.Join(v.err, v.out.line(e))
		return
	}
	v.last[e.Host] = e
	v.clear()
	v.draw()
}

// draw writes the hosts' lines, and clear takes them away again.
func (v *pushView) draw() {
	width := 0
	for _, h := range v.hosts {
		width = max(width, len(h))
	}
	for _, h := range v.hosts {
		e := v.last[h]
		line := fmt.Sprintf("%-*s  %-11s %s", width, clean(h), e.Step, clean(e.Detail))
		fmt.Fprintln(v.out.w, cut(line, lineWidth))
	}
	v.drawn = len(v.hosts)
}

func (v *pushView) clear() {
	if v.drawn > 0 {
		fmt.Fprintf(v.out.w, "\x1b[%dA\x1b[J", v.drawn)
		v.drawn = 0
	}
}

// lineWidth keeps a line from becoming two, which could not be taken away again.
const lineWidth = 79

func cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// asker asks the operator whether a key is the host's; nil where nobody sits there.
func (v *pushView) asker() func(ctx context.Context, host, kind, fingerprint string) (bool, error) {
	if v.in == nil {
		return nil
	}
	return func(_ context.Context, host, kind, fingerprint string) (bool, error) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.clear()
		fmt.Fprintf(v.out.w, "%s is not known. It shows the host key %s (%s).\nIs that its key (yes/no)? ", clean(host), fingerprint, clean(kind))
		answer, err := v.in.ReadString('\n')
		return strings.TrimSpace(answer) == "yes", err
	}
}

// end shows the outcomes: to a human what is in the way and what to do, of a dry run
// everything that was found.
func (v *pushView) end(results []push.Result, everything bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.live {
		for _, r := range results {
			v.err = errors.Join(v.err, v.out.line(r))
		}
		return v.err
	}
	for _, r := range results {
		if r.Problem != nil || everything || r.Outcome == push.Unfit {
			fmt.Fprintf(v.out.w, "\n%s: %s\n", clean(r.Host), clean(r.Message))
		}
		if r.Problem != nil && r.Problem.Remedy != "" {
			fmt.Fprintf(v.out.w, "  what to do: %s\n", clean(r.Problem.Remedy))
		}
		for _, f := range r.Findings {
			if f.Answer == push.Yes && !everything {
				continue
			}
			fmt.Fprintf(v.out.w, "  %-8s%s: %s\n", f.Answer, clean(f.Check), clean(f.Detail))
			if f.Remedy != "" && f.Answer != push.Yes {
				fmt.Fprintf(v.out.w, "          what to do: %s\n", clean(f.Remedy))
			}
		}
	}
	return v.err
}
