package sim

import (
	"errors"
	"sync"
)

// errDead is what a process gets from everything outside of it once it is dead: the code
// of a killed process may run on, but nothing of what it does is seen any more.
var errDead = errors.New("sim: this process is dead")

// process is one run of an agent or of a relay, as far as the world outside of it can
// tell: by its effects. It dies at one of them: before it, after it or in the middle.
type process struct {
	mu   sync.Mutex
	dead bool
	fuse int  // effects until it dies; 0 for no end
	half bool // whether the last effect happens
	last func()
	died chan struct{}
}

// newProcess makes one; last is called at the moment of its death.
func newProcess(last func()) *process {
	return &process{last: last, died: make(chan struct{})}
}

// effect runs what the process does to the world outside, unless it is dead.
func (p *process) effect(do func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.dead:
		return errDead
	case p.fuse == 0:
		return do()
	}
	if p.fuse--; p.fuse > 0 {
		return do()
	}
	if p.half {
		_ = do()
	}
	p.end()
	return errDead
}

// alive is for looking, which changes nothing.
func (p *process) alive() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return errDead
	}
	return nil
}

// kill ends the process after so many more effects; at once for 0.
func (p *process) kill(after int, half bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.dead:
	case after == 0:
		p.end()
	default:
		p.fuse, p.half = after, half
	}
}

// end is death. mu is held.
func (p *process) end() {
	p.dead = true
	p.last()
	close(p.died)
}
