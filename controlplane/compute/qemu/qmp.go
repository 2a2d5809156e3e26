package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// answerLimit is how long qemu may take for a command.
const answerLimit = 30 * time.Second

// errSilent says that nobody answers at the control socket.
var errSilent = errors.New("qemu does not answer")

// command has the qemu at this socket do something and reads its answer into result,
// which may be nil. It takes a connection of its own: commands are few, and qemu serves
// one client at a time.
func command(ctx context.Context, socket, name string, arguments, result any) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("%w at %s: %w", errSilent, socket, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	q := qmp{json.NewEncoder(conn), json.NewDecoder(conn)}
	for _, c := range []struct {
		name      string
		arguments any
		result    any
	}{{"qmp_capabilities", nil, nil}, {name, arguments, result}} {
		if err := q.do(c.name, c.arguments, c.result); err != nil {
			return errors.Join(context.Cause(ctx), err)
		}
	}
	return nil
}

// qmp is a connection in qemu's machine protocol: JSON messages, one after the other.
type qmp struct {
	enc *json.Encoder
	dec *json.Decoder
}

// do sends a command and waits for its answer. A greeting and events come between.
func (q qmp) do(name string, arguments, result any) error {
	order := map[string]any{"execute": name}
	if arguments != nil {
		order["arguments"] = arguments
	}
	if err := q.enc.Encode(order); err != nil {
		return fmt.Errorf("%w: %s: %w", errSilent, name, err)
	}
	for {
		var m struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
		}
		if err := q.dec.Decode(&m); err != nil {
			return fmt.Errorf("%w: %s: %w", errSilent, name, err)
		}
		switch {
		case m.Error != nil:
			return fmt.Errorf("qemu refuses %s: %s", name, m.Error.Desc)
		case m.Return != nil && result != nil:
			return json.Unmarshal(m.Return, result)
		case m.Return != nil:
			return nil
		}
	}
}
