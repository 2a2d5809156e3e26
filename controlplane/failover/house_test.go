package failover

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// house is a double of Disks, Compute and Facts. It outlives the processes of a rig, as
// machines do, and complains of what would harm a real one.
type house struct {
	mu      sync.Mutex
	source  Hardware
	serving map[string]block.Position // by directory
	running map[string]Replica        // by directory
	booted  []block.Position
	locked  map[block.Position]bool
	sight   Sight
	wrong   []string
	// step is called before each call has its effect and again after it: an error is a
	// control plane that dies there.
	step func(call string) error
	kill func() // ends that control plane's process
	// dying is how often the disks' server is gone by the time a machine boots.
	dying int
}

func newHouse() *house {
	return &house{serving: map[string]block.Position{}, running: map[string]Replica{}, locked: map[block.Position]bool{},
		sight: Sight{Console: "Debian GNU/Linux 12 web1 ttyS0\n\nweb1 login: "}}
}

func (h *house) at(call string) error {
	if h.step == nil {
		return nil
	}
	err := h.step(call)
	if err != nil && h.kill != nil {
		h.kill()
	}
	return err
}

func (h *house) do(call string, effect func()) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.at("before " + call); err != nil {
		return err
	}
	effect()
	return h.at("after " + call)
}

func (h *house) complain(format string, args ...any) {
	h.wrong = append(h.wrong, fmt.Sprintf(format, args...))
}

// Lock implements Disks.
func (h *house) Lock(_ context.Context, _ block.MachineID, at block.Position) error {
	return h.do("lock", func() { h.locked[at] = true })
}

// Unlock implements Disks.
func (h *house) Unlock(_ context.Context, _ block.MachineID, at block.Position) error {
	return h.do("unlock", func() { delete(h.locked, at) })
}

// Serve implements Disks.
func (h *house) Serve(_ context.Context, _ block.MachineID, at block.Position, dir string) ([]Served, error) {
	err := h.do("serve", func() {
		if was, there := h.serving[dir]; there && was != at {
			h.complain("%s serves %v and is to serve %v", dir, was, at)
		}
		if !h.locked[at] {
			h.complain("point %v is served and nobody keeps it", at)
		}
		h.serving[dir] = at
	})
	return []Served{{Disk: block.DiskIDFromName("a"), Name: "a", Path: "/dev/sda", Size: 1 << 30, Socket: dir + "/disks", Export: "a"}}, err
}

// Withdraw implements Disks.
func (h *house) Withdraw(_ context.Context, dir string) error {
	return h.do("withdraw", func() {
		if _, runs := h.running[dir]; runs {
			h.complain("the disks in %s were taken from a machine that runs", dir)
		}
		delete(h.serving, dir)
	})
}

// Hardware implements Facts.
func (h *house) Hardware(context.Context, block.MachineID) (Hardware, error) { return h.source, nil }

// Boot implements Compute.
func (h *house) Boot(_ context.Context, r Replica) (Powered, error) {
	if h.dying > 0 { // the server of the disks was found, and then it was gone
		h.dying--
		delete(h.serving, r.Dir)
		return Powered{}, problem.New(problem.Unavailable, "", "the disks do not answer")
	}
	err := h.do("boot", func() {
		if _, runs := h.running[r.Dir]; runs {
			return
		}
		at, there := h.serving[r.Dir]
		if !there {
			h.complain("%s boots without disks", r.Dir)
		}
		h.running[r.Dir] = r
		h.booted = append(h.booted, at)
	})
	return Powered{PID: 4711, Since: time.Now(), Console: r.Dir + "/console", Ports: map[string]string{"22": "127.0.0.1:40022"}}, err
}

// Look implements Compute.
func (h *house) Look(_ context.Context, dir string) (Sight, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sight
	_, s.Running = h.running[dir]
	return s, h.at("before look")
}

// Screenshot implements Compute.
func (h *house) Screenshot(_ context.Context, dir string) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, runs := h.running[dir]; !runs {
		return nil, errors.New("it does not run")
	}
	return []byte("a picture"), nil
}

// Stop implements Compute.
func (h *house) Stop(_ context.Context, dir string) error {
	return h.do("stop", func() { delete(h.running, dir) })
}
