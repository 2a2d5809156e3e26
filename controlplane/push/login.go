package push

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/understudy-dr/understudy/pkg/problem"
)

// KeyLogin is a login with the private key in a file.
func KeyLogin(path string) (ssh.AuthMethod, error) {
	b, err := secretFile(path)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(b)
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		return nil, problem.New(problem.Invalid, "give the key to an SSH agent (ssh-add "+path+") and leave --key away", "the key %s has a passphrase, which nobody asks for here", path)
	}
	if err != nil {
		return nil, problem.New(problem.Invalid, "name the file of a private key, as ssh-keygen writes it", "%s is not a private key: %v", path, err)
	}
	return ssh.PublicKeys(key), nil
}

// Password reads one out of a file: its first line.
func Password(path string) (string, error) {
	b, err := secretFile(path)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", problem.New(problem.Invalid, "put the password into its first line", "%s holds no password", path)
	}
	return line, nil
}

// PasswordLogin is a login with a password, also where the server asks for it as a question.
func PasswordLogin(password string) []ssh.AuthMethod {
	answer := func(_, _ string, questions []string, echos []bool) ([]string, error) {
		answers := make([]string, len(questions))
		for i := range questions {
			if len(questions) != 1 || echos[i] {
				return nil, fmt.Errorf("the machine asks for more than a password: %q", questions)
			}
			answers[i] = password
		}
		return answers, nil
	}
	return []ssh.AuthMethod{ssh.Password(password), ssh.KeyboardInteractive(answer)}
}

// AgentLogin is a login with the keys of the operator's SSH agent.
func AgentLogin(ctx context.Context, socket string) (ssh.AuthMethod, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, problem.New(problem.Unavailable, "start it, or name a key with --key", "the SSH agent does not answer: %v", err)
	}
	return ssh.PublicKeysCallback(agent.NewClient(conn).Signers), nil
}

const maxSecret = 64 << 10 // bytes

// secretFile reads what nobody else may be able to read.
func secretFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, problem.New(problem.Invalid, "check the path", "%v", err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, problem.New(problem.Invalid, "chmod 600 "+path, "others may read %s (mode %04o)", path, info.Mode().Perm())
	}
	if info.Size() > maxSecret {
		return nil, problem.New(problem.Invalid, "check the path", "%s is too large for a key or a password", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, problem.New(problem.Invalid, "check the path", "%v", err)
	}
	return b, nil
}
