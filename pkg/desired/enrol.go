package desired

import (
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// MaxSkew is how far two clocks may be apart before a machine cannot enrol: point
// times are the machine's, certificates and RPO the control plane's.
const MaxSkew = 5 * time.Minute

// Host is what a machine says of itself.
type Host struct {
	Hostname     string `json:"hostname"`
	OS           string `json:"os" doc:"For humans: distribution and version."`
	Kernel       string `json:"kernel,omitempty"`
	AgentVersion string `json:"agent_version"`

	Hardware *Hardware `json:"hardware,omitempty"`
}

// EnrolRequest asks for an identity. Only the key of the signing request counts.
// Repeating it with the same token and the same key is harmless: the answer to the
// first may have been lost.
type EnrolRequest struct {
	Version int       `json:"version"`
	Token   string    `json:"token"`
	CSR     string    `json:"csr" doc:"A PKCS #10 certificate signing request, PEM."`
	Time    time.Time `json:"time" doc:"The agent's clock."`
	Host    Host      `json:"host"`
}

// RenewRequest asks for a new certificate, with the old one as proof.
type RenewRequest struct {
	Version int       `json:"version"`
	CSR     string    `json:"csr" doc:"A PKCS #10 certificate signing request, PEM."`
	Time    time.Time `json:"time" doc:"The agent's clock."`
}

// Credentials are a machine's proof of identity.
type Credentials struct {
	Machine     block.MachineID `json:"machine"`
	Certificate string          `json:"certificate" doc:"The client certificate, PEM."`
	CA          string          `json:"ca" doc:"The authority's certificate, PEM."`
	NotBefore   time.Time       `json:"not_before"`
	NotAfter    time.Time       `json:"not_after"`
	Time        time.Time       `json:"time" doc:"The control plane's clock."`
}

// CheckClocks names a skew beyond MaxSkew and its direction. The error is a problem
// with code clock-skew.
func CheckClocks(agent, controlPlane time.Time) error {
	d := agent.Sub(controlPlane)
	direction := "ahead of"
	if d < 0 {
		d, direction = -d, "behind"
	}
	if d <= MaxSkew {
		return nil
	}
	return problem.New(problem.ClockSkew, "set the wrong one right (chrony, ntp), then try again",
		"this machine's clock (%s) is %s %s the control plane's (%s)",
		agent.UTC().Format(time.RFC3339), d.Round(time.Second), direction, controlPlane.UTC().Format(time.RFC3339))
}
