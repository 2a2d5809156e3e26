package consistency

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// overdue is how much later than the deadline the freezer may answer before it is killed
// and its work done here.
const overdue = 2 * time.Second

// stillWithin is how long who asks whether all is still frozen waits: meanwhile the log
// stands.
const stillWithin = time.Second

// Run makes the machine quiet, has the point marked, and lets the machine go on. It
// returns when everything is thawed and the scripts are done, also when ctx ends.
func (q *Quiescer) Run(ctx context.Context, j Job, mark Mark) Outcome {
	if j.Deadline == 0 {
		j.Deadline = DefaultDeadline
	}
	deadline := time.Now().Add(j.Deadline)
	in, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	var o Outcome
	s := &scripted{point: j.Name}
	o.Problem = q.prepare(in, j, s)
	if o.Problem == nil {
		o.Problem = q.quiet(in, j, deadline, mark, &o)
	}
	// The scripts undo what they did even if the agent is about to end.
	after, done := context.WithTimeout(context.WithoutCancel(ctx), j.Deadline)
	defer done()
	if err := s.post(after); err != nil {
		o.Notes = append(o.Notes, err.Error())
	}
	o.Output = s.output.String()
	return o
}

func (q *Quiescer) prepare(ctx context.Context, j Job, s *scripted) error {
	if !j.Scripts {
		return nil
	}
	scripts, err := q.scripts()
	if err != nil {
		return err
	}
	return s.pre(ctx, scripts)
}

// quiet freezes, marks and thaws.
func (q *Quiescer) quiet(ctx context.Context, j Job, deadline time.Time, mark Mark, o *Outcome) error {
	h, err := thisHost()
	if err != nil {
		return err
	}
	mounts, err := h.freezable(j.Disks, j.Late)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		o.Mounts = append(o.Mounts, m.Point)
	}
	if j.Whole && !h.withRoot(mounts) {
		return errors.New("the root file system is not on a protected disk")
	}
	f, err := q.startFreezer(deadline)
	if err != nil {
		return err
	}
	// Whatever happens from here on, it ends with everything thawed.
	err = f.around(ctx, mounts, j.Hold, mark, o)
	ended := f.close()
	if err == nil && ended != nil { // marked is marked: that thawing was hard makes no worse point of it
		o.Notes = append(o.Notes, ended.Error())
		return nil
	}
	return errors.Join(err, ended)
}

// process is the freezer as the agent sees it.
type process struct {
	q        *Quiescer
	cmd      *exec.Cmd
	in       io.WriteCloser
	answers  chan answer // closed when the freezer has ended
	exit     error       // how, then: nil if everything it froze is thawed
	deadline time.Time
	frozen   []mount // written down as about to be frozen
	release  func()
}

func (q *Quiescer) startFreezer(deadline time.Time) (*process, error) {
	if len(q.Freezer) == 0 {
		return nil, errors.New("consistency: no command for the freezer")
	}
	if !q.busy.CompareAndSwap(false, true) {
		return nil, errors.New("the freezer of an earlier attempt has not ended: a file system is slow to freeze")
	}
	f, err := q.launch(deadline)
	if err != nil {
		q.busy.Store(false)
	}
	return f, err
}

func (q *Quiescer) launch(deadline time.Time) (*process, error) {
	// Not of any context: it is ended by its input, after which it thaws.
	cmd := exec.Command(q.Freezer[0], q.Freezer[1:]...) //nolint:noctx // as said above
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("the freezer does not start: %w", err)
	}
	f := &process{q: q, cmd: cmd, in: in, answers: make(chan answer, 1), deadline: deadline, release: func() {}}
	go func() {
		defer q.busy.Store(false)
		defer close(f.answers)
		defer func() { f.exit = cmd.Wait() }()
		for d := json.NewDecoder(out); ; {
			var a answer
			if d.Decode(&a) != nil {
				return
			}
			f.answers <- a
		}
	}()
	return f, nil
}

// around is what lies between the freezer's start and its end.
func (f *process) around(ctx context.Context, mounts []mount, hold func() func(), mark Mark, o *Outcome) error {
	if _, err := f.tell(ctx, order{Do: "open", Mounts: mounts}); err != nil {
		return err
	}
	if err := f.q.write(mounts); err != nil {
		return err
	}
	f.frozen = mounts
	if hold != nil {
		f.release = hold()
	}
	// The freezer counts from when it reads this: our deadline is never the later one.
	a, err := f.tell(ctx, order{Do: "freeze", Limit: time.Until(f.deadline).Milliseconds()})
	o.Notes = append(o.Notes, a.Notes...)
	if err != nil {
		return err
	}
	marked := mark(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, stillWithin)
		defer cancel()
		_, err := f.tell(ctx, order{Do: "still"})
		return err
	})
	a, err = f.tell(context.WithoutCancel(ctx), order{Do: "thaw"})
	o.Frozen = time.Duration(a.Frozen) * time.Millisecond
	if marked != nil {
		return marked
	}
	if err != nil {
		o.Notes = append(o.Notes, err.Error())
	}
	return nil
}

// tell gives an order and waits for the answer.
func (f *process) tell(ctx context.Context, what order) (answer, error) {
	if err := json.NewEncoder(f.in).Encode(what); err != nil {
		return answer{}, fmt.Errorf("the freezer has ended: %w", err)
	}
	late := time.NewTimer(time.Until(f.deadline) + overdue)
	defer late.Stop()
	select {
	case a, ok := <-f.answers:
		switch {
		case !ok:
			return a, errors.New("the freezer has ended")
		case a.Error != "":
			return a, errors.New(a.Error)
		}
		return a, nil
	case <-ctx.Done():
		if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			return answer{}, errors.New("the deadline has passed")
		}
		return answer{}, context.Cause(ctx)
	case <-late.C:
		return answer{}, errors.New("the freezer does not answer")
	}
}

// close ends the freezer, which thaws, and sees to it that everything is. The agent goes
// on writing only then.
func (f *process) close() error {
	f.in.Close()
	defer func() { f.release() }()
	late := time.NewTimer(max(0, time.Until(f.deadline)) + overdue)
	defer late.Stop()
	for {
		select {
		case _, more := <-f.answers:
			switch {
			case more:
				continue
			case f.exit == nil && f.frozen != nil:
				return os.Remove(f.q.Record)
			case f.exit == nil:
				return nil
			}
			_, err := f.q.Recover()
			return errors.Join(fmt.Errorf("the freezer ended badly: %w", f.exit), err)
		case <-late.C:
			// Stopped, perhaps, or the kernel holds it in the middle of a freeze. It is not
			// killed: once it goes on, it thaws. The record stays for whoever comes later.
			_ = f.cmd.Process.Signal(syscall.SIGCONT)
			for _, m := range f.frozen {
				go func() { _, _ = m.thaw() }() // waits for a freeze under way
			}
			return errors.New("the freezer did not end in time; what it froze was thawed without it")
		}
	}
}

// write notes what is about to be frozen.
func (q *Quiescer) write(mounts []mount) error {
	b, err := json.Marshal(mounts)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(q.Record), 0o700)
	}
	if err == nil {
		err = os.WriteFile(q.Record, b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("what is about to be frozen cannot be written down: %w", err)
	}
	return nil
}

// Recover thaws what the record says was frozen, and names what still was.
func (q *Quiescer) Recover() ([]string, error) {
	b, err := os.ReadFile(q.Record)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var mounts []mount
	if err := json.Unmarshal(b, &mounts); err != nil {
		return nil, errors.Join(fmt.Errorf("consistency: %s: %w", q.Record, err), os.Remove(q.Record))
	}
	var thawed []string
	var errs []error
	for _, m := range slices.Backward(mounts) {
		was, err := m.thaw()
		if was {
			thawed = append(thawed, m.Point)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return thawed, err
	}
	return thawed, os.Remove(q.Record)
}

// thaw reports whether it was frozen. One that cannot be opened was unmounted meanwhile.
func (m mount) thaw() (was bool, err error) {
	fd, err := m.open()
	if err != nil {
		return false, nil //nolint:nilerr // as said above
	}
	defer unix.Close(fd)
	err = unix.IoctlSetInt(fd, fiThaw, 0)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s does not thaw: %w: run fsfreeze --unfreeze %s", m, err, m.Point)
	}
	return true, nil
}
