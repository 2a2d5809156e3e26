package push

import (
	_ "embed"
	"encoding/hex"
	"fmt"
	"net"
	"regexp"

	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// The pull way: a machine that nobody may enter fetches its agent by itself. What the
// control plane serves for it, below /v1/install, is no secret; the token is, and comes
// with the command.

// AgentScript is what the command of a machine fetches and runs.
//
//go:embed scripts/agent.sh
var AgentScript string

// plainHost is what may stand in the command unquoted.
var plainHost = regexp.MustCompile(`^[A-Za-z0-9.:%-]+$`)

// Command is what somebody runs as root on a machine to have it protected by the control
// plane at host:port. Nothing that comes over the network is run before the control plane
// is proved: the authority's certificate is fetched by a connection that trusts nobody,
// compared with the fingerprint that the token carries, and everything else comes by a
// connection that trusts nobody but that authority. It is addressed as localhost, a name
// that each of its certificates bears: which names and addresses a machine reaches it by,
// the control plane does not know.
//
// The parentheses keep the directory of the shell that it is pasted into as it is, and the
// token out of the list of processes, since nothing but what the shell itself does sees it.
func Command(host, port string, token desired.Token) (string, error) {
	if !plainHost.MatchString(host) || !plainHost.MatchString(port) {
		return "", problem.New(problem.Invalid, "give it as HOST or HOST:PORT", "%q is not how machines reach a control plane", net.JoinHostPort(host, port))
	}
	server := net.JoinHostPort(host, port)
	return fmt.Sprintf(`(set -e; d=$(mktemp -d); trap 'rm -rf "$d"' EXIT; cd "$d"; `+
		`curl -fsSk 'https://%s/v1/install/ca.der' -o ca.der; echo '%s  ca.der' | sha256sum -c >/dev/null 2>&1 || { echo 'understudy: that is not the control plane of this token' >&2; exit 1; }; `+
		`(echo -----BEGIN CERTIFICATE-----; base64 ca.der; echo -----END CERTIFICATE-----) >ca.pem; `+
		`curl -fsS --cacert ca.pem --connect-to '::%s' https://localhost:%s/v1/install/agent.sh -o agent.sh; echo %s | sh agent.sh '%s')`,
		server, hex.EncodeToString(token.Fingerprint[:]), server, port, token, server), nil
}
