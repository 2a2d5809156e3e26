package desired

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/understudy-dr/understudy/pkg/problem"
)

// tokenPrefix marks a token and its version, so that one that leaks into a log is
// recognised there.
const tokenPrefix = "ust1"

const secretBytes = 20

// Token lets one machine enrol once. Besides the secret it carries the fingerprint
// of the control plane's authority, so that the agent knows whom it talks to before
// it trusts anybody: ust1_<secret>_<fingerprint>, both in hexadecimal.
type Token struct {
	Secret      string
	Fingerprint [sha256.Size]byte // SHA-256 of the authority's certificate (DER)
}

// NewToken draws a token for the authority with this fingerprint.
func NewToken(fingerprint [sha256.Size]byte) Token {
	b := make([]byte, secretBytes)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	return Token{Secret: hex.EncodeToString(b), Fingerprint: fingerprint}
}

// String is the token as an operator carries it to the machine.
func (t Token) String() string {
	return strings.Join([]string{tokenPrefix, t.Secret, hex.EncodeToString(t.Fingerprint[:])}, "_")
}

// ParseToken reads what String writes. The error is a problem with code token-wrong.
func ParseToken(s string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(s), "_")
	if len(parts) != 3 || parts[0] != tokenPrefix {
		return Token{}, wrongToken("it does not look like %s_<secret>_<fingerprint>", tokenPrefix)
	}
	if b, err := hex.DecodeString(parts[1]); err != nil || len(b) != secretBytes {
		return Token{}, wrongToken("its secret is not %d hexadecimal digits", 2*secretBytes)
	}
	sum, err := hex.DecodeString(parts[2])
	if err != nil || len(sum) != sha256.Size {
		return Token{}, wrongToken("its fingerprint is not %d hexadecimal digits", 2*sha256.Size)
	}
	return Token{Secret: parts[1], Fingerprint: [sha256.Size]byte(sum)}, nil
}

func wrongToken(why string, args ...any) error {
	p := problem.New(problem.TokenWrong, "copy the whole token, or make a new one: understudy token create", why, args...)
	p.Detail = "this is not an enrolment token: " + p.Detail
	return p
}
