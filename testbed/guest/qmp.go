package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// command has qemu do something to the machine from outside, by QMP: one connection a
// command, since there are few.
func (g *Guest) command(ctx context.Context, name string, arguments map[string]any) error {
	_, err := g.query(ctx, name, arguments)
	return err
}

// monitor gives qemu a line of its monitor for humans, and returns what that prints.
func (g *Guest) monitor(ctx context.Context, line string) (text string, err error) {
	answer, err := g.query(ctx, "human-monitor-command", map[string]any{"command-line": line})
	if err != nil {
		return "", err
	}
	return text, json.Unmarshal(answer, &text)
}

func (g *Guest) query(ctx context.Context, name string, arguments map[string]any) (json.RawMessage, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", g.socket)
	if err != nil {
		return nil, fmt.Errorf("guest %s: qemu's control socket: %w", g.Name, err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	q := qmp{json.NewEncoder(conn), json.NewDecoder(conn)}
	_, err = q.do("qmp_capabilities", nil)
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", g.Name, err)
	}
	answer, err := q.do(name, arguments)
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", g.Name, err)
	}
	return answer, nil
}

type qmp struct {
	enc *json.Encoder
	dec *json.Decoder
}

// do waits for the answer. A greeting and events come between.
func (q qmp) do(name string, arguments map[string]any) (json.RawMessage, error) {
	request := map[string]any{"execute": name}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := q.enc.Encode(request); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for {
		var answer struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
		}
		if err := q.dec.Decode(&answer); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if answer.Error != nil {
			return nil, fmt.Errorf("%s: %s", name, answer.Error.Desc)
		}
		if answer.Return != nil {
			return answer.Return, nil
		}
	}
}

// CutNetwork pulls the network cable. Nothing is closed: both ends wait, as they do for
// a switch that has died. Run has no way in until RestoreNetwork, and the scripts that
// run have lost theirs.
func (g *Guest) CutNetwork(ctx context.Context) error {
	g.hangUp()
	return g.link(ctx, false)
}

// RestoreNetwork plugs the cable in again.
func (g *Guest) RestoreNetwork(ctx context.Context) error { return g.link(ctx, true) }

func (g *Guest) link(ctx context.Context, up bool) error {
	return g.command(ctx, "set_link", map[string]any{"name": "card0", "up": up})
}
