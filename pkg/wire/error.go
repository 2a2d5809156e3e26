package wire

import "fmt"

// Code names why a peer ended a channel. The same words stand in events and metrics.
type Code string

// The codes.
const (
	CodeVersion       Code = "version"             // banner older, newer or not ours
	CodeBadMessage    Code = "bad-message"         // not a message of this protocol, or not at this place
	CodeUnauthorised  Code = "unauthorised"        // unknown, unprotected or revoked machine
	CodeCertExpired   Code = "certificate-expired" // it ran out during the session
	CodeIdentityInUse Code = "identity-in-use"     // another living agent has the same identity
	CodeReplaced      Code = "replaced"            // the same agent has dialled again
	CodeWrongMachine  Code = "wrong-machine"       // a Hello or frame of another machine than the certificate's
	CodeWrongChannel  Code = "wrong-channel"       // a base frame on the log channel, or the reverse
	CodeCorruptFrame  Code = "corrupt-frame"       // checksum, format or size
	CodeChainGap      Code = "chain-gap"           // a frame leaves sequence numbers out
	CodeChainOverlap  Code = "chain-overlap"       // a frame begins inside what is there already
	CodeEpochOrder    Code = "epoch-order"         // an epoch goes back, or begins without its mark
	CodeCredit        Code = "credit-exceeded"     // more bytes than were granted
	CodeVaultDown     Code = "vault-unavailable"   // the machine's position cannot be told now
	CodeBusy          Code = "busy"                // too many sessions
	CodeShuttingDown  Code = "shutting-down"       // the relay stops in good order
	CodeInternal      Code = "internal"
	CodeHashesFailed  Code = "hashes-unavailable" // in a HashReply: the vault could not tell
	CodeHashesRefused Code = "hashes-refused"     // in a HashReply: the range asked for makes no sense
	CodeHashesDamaged Code = "hashes-damaged"     // in a HashReply: what the vault stores of the range cannot be used
	CodeHashesNoPoint Code = "hashes-no-position" // in a HashReply: the vault cannot tell the position asked for
)

// Error is a peer's last word on a channel: what happened and what the operator can
// do. It is an error in Go, too.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
}

func (e *Error) Error() string {
	if e.Remedy == "" {
		return fmt.Sprintf("%s (%s)", e.Message, e.Code)
	}
	return fmt.Sprintf("%s (%s): %s", e.Message, e.Code, e.Remedy)
}

// Is makes errors.Is(err, &Error{Code: c}) match by code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Refuse makes an Error.
func Refuse(code Code, remedy, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Remedy: remedy}
}
