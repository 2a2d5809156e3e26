package consistency

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// maxOutput is how much of a script's output an operator is shown.
const maxOutput = 1 << 10

// scripts are those of this machine, in the order of --pre: the one of the ASR
// convention, then the drop-in ones by name.
func (q *Quiescer) scripts() ([]string, error) {
	own := filepath.Join(q.Scripts, "scripts", "customscript.sh")
	found, err := filepath.Glob(filepath.Join(q.Scripts, "consistency.d", "*.sh"))
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(own); err == nil {
		found = append([]string{own}, found...)
	}
	for _, s := range found {
		if err := trusted(s); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// trusted refuses a script that others than root can change: the agent runs it as root.
func trusted(script string) error {
	path, err := filepath.EvalSymlinks(script)
	if err != nil {
		return fmt.Errorf("script %s: %w", script, err)
	}
	for _, p := range []string{path, filepath.Dir(path), filepath.Dir(script)} {
		fi, err := os.Stat(p)
		if err != nil {
			return fmt.Errorf("script %s: %w", script, err)
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok || st.Uid != 0 || fi.Mode().Perm()&0o022 != 0 {
			return fmt.Errorf("script %s was not run: %s must belong to root and be writable by nobody else (chown root, chmod go-w)", script, p)
		}
	}
	if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() || fi.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("script %s was not run: it is not an executable file (chmod +x)", script)
	}
	return nil
}

// scripted is a run of the scripts around one point.
type scripted struct {
	point  string
	called []string // with --pre
	output strings.Builder
}

// pre calls the scripts with --pre; the first that fails is the last.
func (s *scripted) pre(ctx context.Context, scripts []string) error {
	for _, path := range scripts {
		s.called = append(s.called, path)
		if err := s.call(ctx, path, "--pre"); err != nil {
			return err
		}
	}
	return nil
}

// post calls those that were called, also the one that failed, with --post, the last first.
func (s *scripted) post(ctx context.Context) error {
	var errs []error
	for _, path := range slices.Backward(s.called) {
		errs = append(errs, s.call(ctx, path, "--post"))
	}
	s.called = nil
	return errors.Join(errs...)
}

// call runs one script. At the deadline it is killed with all it started.
func (s *scripted) call(ctx context.Context, path, arg string) error {
	cmd := exec.CommandContext(ctx, path, arg)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "UNDERSTUDY_POINT=" + s.point}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for the output of what left the group
	out := &beginning{}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	if text := strings.TrimSpace(out.String()); text != "" {
		fmt.Fprintf(&s.output, "%s %s: %s\n", path, arg, strings.ToValidUTF8(text, "?"))
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("script %s %s did not end in time and was killed", path, arg)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("script %s %s cannot be run: %w", path, arg, err)
	}
	return fmt.Errorf("script %s %s failed: %w", path, arg, err)
}

// beginning keeps the first bytes of what is written to it.
type beginning struct{ bytes.Buffer }

// Write implements io.Writer.
func (b *beginning) Write(p []byte) (int, error) {
	room := max(0, maxOutput-b.Len())
	b.Buffer.Write(p[:min(room, len(p))])
	return len(p), nil
}
