package lab

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Machine is a protected machine: this one, seen through one agent of the lab.
type Machine struct {
	Name  string
	Agent *Process

	site *Site
	dir  string // the agent's own
	bin  string
	id   block.MachineID
}

// NewMachine prepares an agent with its own identity, journal and pins. More flags for
// its run verb may follow; they win over those given here.
func (s *Site) NewMachine(name string, flags ...string) *Machine {
	m := &Machine{Name: name, site: s, dir: s.lab.Path(name), bin: filepath.Join(s.bin, "understudy-agent")}
	args := append([]string{"run", "--dir", m.dir, "--memory-dir", m.memory(), "--spill", filepath.Join(m.dir, "spill.hrl"), "--spill-bytes", strconv.Itoa(256 << 20)}, m.instance()...)
	m.Agent = s.lab.NewProcess(name, m.bin, append(args, flags...)...)
	return m
}

func (m *Machine) memory() string { return filepath.Join(m.site.lab.RunDir(), m.Name) }

func (m *Machine) instance() []string {
	return []string{"--instance", m.site.lab.Instance(m.Name)}
}

// ID is the machine's id, valid after Enrol. Hostnames are no help in a lab: all its
// machines have the same.
func (m *Machine) ID() string { return m.id.String() }

// Enrol gives the machine an identity by a one-time token.
func (m *Machine) Enrol(ctx context.Context) error {
	token, err := m.site.Token(ctx)
	if err != nil {
		return err
	}
	return m.EnrolWith(ctx, token)
}

// EnrolWith enrols with whatever token.
func (m *Machine) EnrolWith(ctx context.Context, token string) error {
	if _, err := run(ctx, m.bin, "enrol", "--server", m.site.API, "--token", token, "--dir", m.dir); err != nil {
		return err
	}
	return m.readIdentity()
}

func (m *Machine) readIdentity() error {
	b, err := os.ReadFile(filepath.Join(m.dir, "identity.json"))
	if err != nil {
		return err
	}
	return m.parseIdentity(b)
}

func (m *Machine) parseIdentity(b []byte) error {
	var identity struct {
		Machine block.MachineID `json:"machine"`
	}
	err := json.Unmarshal(b, &identity)
	m.id = identity.Machine
	return err
}

// Clone is another machine with a copy of this one's identity, and nothing else of it.
func (m *Machine) Clone(name string) (*Machine, error) {
	c := m.site.NewMachine(name)
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		return nil, err
	}
	for _, file := range []string{"identity.json", "identity.pem"} {
		b, err := os.ReadFile(filepath.Join(m.dir, file))
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(c.dir, file), b, 0o600); err != nil {
			return nil, err
		}
	}
	return c, c.readIdentity()
}

// ForgetBoot takes away what a power cut takes: the capture in the kernel and what lay
// in memory. The agent must not run.
func (m *Machine) ForgetBoot(ctx context.Context) error {
	return errors.Join(m.Detach(ctx), os.RemoveAll(m.memory()))
}

// Detach takes the capture out of the kernel. The agent must not run.
func (m *Machine) Detach(ctx context.Context) error {
	_, err := run(ctx, m.bin, append([]string{"detach"}, m.instance()...)...)
	return err
}

// Client is an HTTP client with the agent's certificate, as somebody has it who took
// the machine over.
func (m *Machine) Client() (*http.Client, error) {
	file := filepath.Join(m.dir, "identity.pem")
	cert, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		return nil, err
	}
	cert.Certificate = cert.Certificate[:1]
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{
		Certificates:       []tls.Certificate{cert},
		InsecureSkipVerify: true,
	}}}, nil
}

// BaseSent is how many bytes the agent's last completed copy or resync sent, by its
// log; 0 if there was none.
func (m *Machine) BaseSent() int64 {
	log, err := os.ReadFile(m.Agent.Log)
	if err != nil {
		return 0
	}
	found := baseComplete.FindAllSubmatch(log, -1)
	if len(found) == 0 {
		return 0
	}
	n, err := strconv.ParseInt(string(found[len(found)-1][1]), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

var baseComplete = regexp.MustCompile(`msg="base complete" .*\bbytes=(\d+)`)

// View is what the operator is told of a machine.
type View struct {
	// Reported is when the agent said last what Protection holds.
	Reported time.Time `json:"reported"`
	Status   struct {
		State   string   `json:"state"`
		Contact string   `json:"contact"`
		Reason  string   `json:"reason"`
		Message string   `json:"message"`
		RPO     *float64 `json:"rpo_seconds"`

		Problem *problem.Problem `json:"problem"`
	} `json:"status"`
	Protection  *desired.Protection `json:"protection"`
	Replication *struct {
		PointTime time.Time `json:"point_time"`
		Transport string    `json:"transport"`
	} `json:"replication"`
}

// PointTime is the time of the newest recoverable point; zero if there is none.
func (v View) PointTime() time.Time {
	if v.Replication == nil {
		return time.Time{}
	}
	return v.Replication.PointTime
}

// Show asks for the machine's status.
func (m *Machine) Show(ctx context.Context) (View, error) {
	var v View
	err := m.site.Ask(ctx, &v, "machine", "show", m.ID())
	return v, err
}

// UntilState waits until the machine is in this state.
func (m *Machine) UntilState(ctx context.Context, limit time.Duration, state string) (View, error) {
	var v View
	err := Until(ctx, limit, "state "+state, func() (bool, error) {
		var err error
		if v, err = m.Show(ctx); err != nil {
			return false, err
		}
		if v.Status.State == state {
			return true, nil
		}
		return false, fmt.Errorf("machine %s is %s: %s", m.Name, v.Status.State, v.Status.Message)
	})
	return v, err
}
