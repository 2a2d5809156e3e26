package consistency

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The freezer is told what to do on its standard input and answers each order on its
// standard output, one JSON object a line:
//
//	open    the mounts to freeze, in order; they are opened and synced
//	freeze  and thaw by yourself when limit_ms have passed
//	still   whether all of it has been frozen ever since
//	thaw    and say how long it was frozen
type order struct {
	Do     string  `json:"do"`
	Mounts []mount `json:"mounts,omitempty"`
	Limit  int64   `json:"limit_ms,omitempty"`
}

type answer struct {
	Error  string   `json:"error,omitempty"`
	Notes  []string `json:"notes,omitempty"`
	Frozen int64    `json:"frozen_ms,omitempty"`
}

const (
	fiFreeze = 0xc0045877 // FIFREEZE, _IOWR('X', 119, int)
	fiThaw   = 0xc0045878 // FITHAW, _IOWR('X', 120, int)
)

// thawAgain is how long a file system that did not thaw is left alone.
const thawAgain = 100 * time.Millisecond

// target is a file system that the freezer has open.
type target struct {
	mount
	fd int
}

// freezer is the process that freezes, and thaws whatever happens.
type freezer struct {
	targets []target

	mu    sync.Mutex
	held  []target // frozen by us, in order
	since time.Time
	took  time.Duration
	over  string // why nothing is to be frozen any more; empty while it may be
	notes []string
}

// Freeze is the freezer's process. It returns when in ends and everything is thawed.
func Freeze(in io.Reader, out io.Writer) error {
	// Either may be refused, as in a container. Then it is as safe as any process.
	_ = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE)
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
	// An agent that is gone must not end this process by a broken pipe before it thaws.
	signal.Ignore(syscall.SIGPIPE)
	f := &freezer{}
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	orders, gone := make(chan order), make(chan struct{})
	go func() {
		defer close(gone)
		for d := json.NewDecoder(in); ; {
			var o order
			if d.Decode(&o) != nil {
				return
			}
			orders <- o
		}
	}()
	return f.serve(orders, gone, ends, json.NewEncoder(out))
}

// serve obeys until the agent is gone. An order runs beside it, since it may take long:
// the deadline and the end of the agent must be noticed meanwhile.
func (f *freezer) serve(orders <-chan order, gone <-chan struct{}, ends <-chan os.Signal, out *json.Encoder) error {
	var deadline <-chan time.Time
	answers := make(chan answer, 1)
	next := orders
	for {
		select {
		case o := <-next:
			if o.Do == "freeze" {
				deadline = time.After(time.Duration(o.Limit) * time.Millisecond)
			}
			next = nil // the agent waits for the answer
			go func() { answers <- f.obey(o) }()
		case a := <-answers:
			next = orders
			if out.Encode(a) != nil {
				f.end("the agent does not listen")
			}
		case <-deadline:
			f.end("the deadline has passed")
		case s := <-ends:
			f.end("the freezer was told to end by " + s.String())
		case <-gone:
			f.end("the agent is gone")
			if next == nil {
				<-answers // a freeze under way is undone when it comes to its end
			}
			return f.last()
		}
	}
}

func (f *freezer) obey(o order) answer {
	var a answer
	var err error
	switch o.Do {
	case "open":
		err = f.open(o.Mounts)
	case "freeze":
		err = f.freeze()
	case "still":
		err = f.still()
	case "thaw":
		f.end("it is over")
		err = f.last()
	default:
		err = fmt.Errorf("the freezer does not know %q", o.Do)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	a.Notes, a.Frozen = f.notes, f.took.Milliseconds()
	if err != nil {
		a.Error = err.Error()
	}
	return a
}

func (f *freezer) open(mounts []mount) error {
	for _, m := range mounts {
		fd, err := m.open()
		if err != nil {
			return err
		}
		f.targets = append(f.targets, target{m, fd})
	}
	for _, t := range f.targets { // so that little is left to write while others are frozen
		if err := unix.Syncfs(t.fd); err != nil {
			return fmt.Errorf("%s: syncing: %w", t, err)
		}
	}
	return nil
}

func (f *freezer) freeze() error {
	f.mu.Lock()
	f.since = time.Now()
	f.mu.Unlock()
	for _, t := range f.targets {
		if err := f.may(); err != nil {
			return err
		}
		err := unix.IoctlSetInt(t.fd, fiFreeze, 0)
		if errors.Is(err, unix.EOPNOTSUPP) && slices.Contains([]string{"vfat", "msdos", "exfat"}, t.Type) {
			// The EFI system partition, mostly. It has no journal, nor any way to freeze.
			if err := unix.Syncfs(t.fd); err != nil {
				return fmt.Errorf("%s: syncing: %w", t, err)
			}
			f.mu.Lock()
			f.notes = append(f.notes, t.String()+" was synced: it cannot be frozen")
			f.mu.Unlock()
			continue
		}
		if err := f.taken(t, err); err != nil {
			return err
		}
	}
	return f.may()
}

// taken takes down that a file system was frozen. If it is over by then it thaws.
func (f *freezer) taken(t target, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%s is frozen by somebody else", t)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%s cannot be frozen: its file system knows no freezing", t)
	case err != nil:
		return fmt.Errorf("%s cannot be frozen: %w", t, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = append(f.held, t)
	if f.over != "" {
		_ = f.thaw() // last tells
	}
	return nil
}

func (f *freezer) may() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over != "" {
		return errors.New(f.over)
	}
	return nil
}

// still asks the kernel by freezing again, which it refuses while it is frozen.
func (f *freezer) still() error {
	if err := f.may(); err != nil {
		return err
	}
	f.mu.Lock()
	held := slices.Clone(f.held)
	f.mu.Unlock()
	for _, t := range held {
		err := unix.IoctlSetInt(t.fd, fiFreeze, 0) // without the lock: it may take long
		if errors.Is(err, unix.EBUSY) {
			continue
		}
		f.mu.Lock()
		if err == nil && f.over != "" {
			f.held = append(f.held, t)
			_ = f.thaw() // last tells
		}
		f.mu.Unlock()
		return fmt.Errorf("%s was thawed by somebody else meanwhile", t)
	}
	return f.may()
}

// end thaws everything and lets nothing be frozen any more.
func (f *freezer) end(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over == "" {
		f.over = why
	}
	_ = f.thaw() // last tries again, and tells
}

// last is end that tells what does not thaw, after trying again for a while.
func (f *freezer) last() error {
	var err error
	for range 50 {
		f.mu.Lock()
		err = f.thaw()
		f.mu.Unlock()
		if err == nil {
			return nil
		}
		time.Sleep(thawAgain)
	}
	return err
}

// thaw thaws what is held, the newest first. The caller holds mu.
func (f *freezer) thaw() error {
	var errs []error
	var left []target
	had := len(f.held) > 0
	for _, t := range slices.Backward(f.held) {
		if err := unix.IoctlSetInt(t.fd, fiThaw, 0); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it is not frozen
			errs = append(errs, fmt.Errorf("%s does not thaw: %w", t, err))
			left = append(left, t)
		}
	}
	slices.Reverse(left)
	f.held = left
	if had {
		f.took = time.Since(f.since)
	}
	return errors.Join(errs...)
}
