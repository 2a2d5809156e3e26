package push

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/understudy-dr/understudy/pkg/problem"
)

// Agents finds the agent's program for a system.
type Agents struct {
	// Dirs are looked at in their order, for SYSTEM-ARCHITECTURE/understudy-agent
	// (linux-amd64), as the control plane's package has them, and for understudy-agent
	// alone, as a build does.
	Dirs []string
}

// DefaultAgents are those that came with this program.
func DefaultAgents() Agents {
	a := Agents{Dirs: []string{"/usr/lib/understudy/agents"}}
	if own, err := os.Executable(); err == nil {
		a.Dirs = append(a.Dirs, filepath.Dir(own))
	}
	return a
}

// Agent is the agent's program for one system.
type Agent struct {
	Path string
	Size int64
	Sum  string // SHA-256, hexadecimal
}

// machines are the architectures that there are agents for, as Go calls them, in the words
// of a program's header. The header is looked at, not the name: the wrong program would
// only fail on the target.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// Find is the program for Linux on this architecture. The error is a problem with code
// not-found.
func (a Agents) Find(arch string) (Agent, error) {
	path, err := a.Path(arch)
	if err != nil {
		return Agent{}, err
	}
	return describe(path)
}

// Path is where that program is.
func (a Agents) Path(arch string) (string, error) {
	for _, dir := range a.Dirs {
		for _, path := range []string{filepath.Join(dir, "linux-"+arch, "understudy-agent"), filepath.Join(dir, "understudy-agent")} {
			if runsOn(path, arch) {
				return path, nil
			}
		}
	}
	return "", problem.New(problem.NotFound, fmt.Sprintf("put it to %s, or name its directory with --agents", filepath.Join(a.first(), "linux-"+arch, "understudy-agent")),
		"there is no agent for linux/%s here", arch)
}

func (a Agents) first() string {
	if len(a.Dirs) == 0 {
		return "."
	}
	return a.Dirs[0]
}

func runsOn(path, arch string) bool {
	want, ok := machines[arch]
	if !ok {
		return false
	}
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return f.Machine == want && f.Class == elf.ELFCLASS64
}

func describe(path string) (Agent, error) {
	f, err := os.Open(path)
	if err != nil {
		return Agent{}, fmt.Errorf("the agent's program: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return Agent{}, fmt.Errorf("the agent's program: %w", err)
	}
	return Agent{Path: path, Size: n, Sum: hex.EncodeToString(sum.Sum(nil))}, nil
}

// describePackage is the same for a deb or rpm of the agent's.
func describePackage(path string) (Agent, error) {
	a, err := describe(path)
	if errors.Is(err, fs.ErrNotExist) {
		return a, problem.New(problem.Invalid, "check --package", "there is no %s", path)
	}
	return a, err
}
