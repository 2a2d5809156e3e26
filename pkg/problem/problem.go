// Package problem is an error that somebody can act on: what happened, to what,
// and what to do now. Its JSON form is the problem document of RFC 9457, so that
// the same value travels from the control plane to an agent or an operator's tool
// and is still an error there.
package problem

import (
	"errors"
	"fmt"
	"net/http"
)

// Code names a kind of problem for programs. Codes are part of the API: they are
// added, never changed.
type Code string

// The codes, with the HTTP status that goes with each in statuses.
const (
	Invalid            Code = "invalid"             // the request cannot mean anything
	TooLarge           Code = "too-large"           // a body, list or text beyond its limit
	TooMany            Code = "too-many"            // of something, in so short a time
	NotFound           Code = "not-found"           // no such route, job, event, point
	Ambiguous          Code = "ambiguous"           // a name that fits several things
	Conflict           Code = "conflict"            // right now it cannot be done
	Unauthenticated    Code = "unauthenticated"     // nobody proved to be anybody
	Forbidden          Code = "forbidden"           // proved, but not allowed to do this
	VersionUnknown     Code = "version-unknown"     // the other side speaks another protocol
	TokenWrong         Code = "token-wrong"         // not a token of this control plane
	TokenExpired       Code = "token-expired"       // its time is over
	TokenUsed          Code = "token-used"          // a one-time token came twice
	TokenRevoked       Code = "token-revoked"       // an operator took it back
	CertificateExpired Code = "certificate-expired" // its time is over
	CertificateForeign Code = "certificate-foreign" // another authority signed it
	CertificateRevoked Code = "certificate-revoked" // an operator took it back
	ClockSkew          Code = "clock-skew"          // two clocks disagree too much
	IdentityConflict   Code = "identity-conflict"   // two agents claim to be one machine
	MachineUnknown     Code = "machine-unknown"     // no such machine
	DiskUnknown        Code = "disk-unknown"        // the machine has no such disk
	DiskGone           Code = "disk-gone"           // it had the disk, and has it no more
	DiskProtected      Code = "disk-protected"      // protected already
	DiskUnprotected    Code = "disk-unprotected"    // not protected, so nothing to do
	PointUnknown       Code = "point-unknown"       // no such recovery point
	PointInDoubt       Code = "point-in-doubt"      // it may show other bytes than the disks had
	NoPoint            Code = "no-point"            // nothing is recoverable yet
	Exists             Code = "exists"              // will not overwrite what it did not make
	Damaged            Code = "damaged"             // what is stored does not prove to be right
	NotUp              Code = "not-up"              // a replica does not show that it is up
	Unavailable        Code = "unavailable"         // a part that this needs does not answer
	Internal           Code = "internal"            // our fault
)

var statuses = map[Code]int{
	Invalid:            http.StatusUnprocessableEntity,
	TooLarge:           http.StatusRequestEntityTooLarge,
	TooMany:            http.StatusTooManyRequests,
	NotFound:           http.StatusNotFound,
	Ambiguous:          http.StatusConflict,
	Conflict:           http.StatusConflict,
	Unauthenticated:    http.StatusUnauthorized,
	Forbidden:          http.StatusForbidden,
	VersionUnknown:     http.StatusBadRequest,
	TokenWrong:         http.StatusUnauthorized,
	TokenExpired:       http.StatusUnauthorized,
	TokenUsed:          http.StatusUnauthorized,
	TokenRevoked:       http.StatusUnauthorized,
	CertificateExpired: http.StatusUnauthorized,
	CertificateForeign: http.StatusUnauthorized,
	CertificateRevoked: http.StatusForbidden,
	ClockSkew:          http.StatusUnauthorized,
	IdentityConflict:   http.StatusConflict,
	MachineUnknown:     http.StatusNotFound,
	DiskUnknown:        http.StatusNotFound,
	DiskGone:           http.StatusConflict,
	DiskProtected:      http.StatusConflict,
	DiskUnprotected:    http.StatusConflict,
	PointUnknown:       http.StatusNotFound,
	PointInDoubt:       http.StatusConflict,
	NoPoint:            http.StatusConflict,
	Exists:             http.StatusConflict,
	Damaged:            http.StatusInternalServerError,
	NotUp:              http.StatusConflict,
	Unavailable:        http.StatusServiceUnavailable,
	Internal:           http.StatusInternalServerError,
}

// Status is the HTTP status that goes with the code; 500 for an unknown one.
func (c Code) Status() int {
	if s, ok := statuses[c]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// Problem is one thing that went wrong, as a problem document (RFC 9457) with two
// members of ours: code and remedy.
type Problem struct {
	Title  string  `json:"title" doc:"The HTTP status in words."`
	Status int     `json:"status" doc:"The HTTP status."`
	Code   Code    `json:"code" doc:"Names the kind of problem for programs."`
	Detail string  `json:"detail" doc:"What happened, to which machine or disk."`
	Remedy string  `json:"remedy,omitempty" doc:"What to do now."`
	Fields []Field `json:"errors,omitempty" doc:"The parts of the request that are wrong."`
}

// Field is one part of a request that is wrong.
type Field struct {
	Message  string `json:"message"`
	Location string `json:"location,omitempty" doc:"For example body.disks[0] or query.limit."`
}

// New is a problem of this code. The remedy says what to do now; the rest is the
// detail, as for fmt.Sprintf.
func New(code Code, remedy, format string, args ...any) *Problem {
	return &Problem{
		Title:  http.StatusText(code.Status()),
		Status: code.Status(),
		Code:   code,
		Detail: fmt.Sprintf(format, args...),
		Remedy: remedy,
	}
}

// Error is detail and remedy in one line, for whoever does not know this type.
func (p *Problem) Error() string {
	s := p.Detail
	for _, f := range p.Fields {
		s += fmt.Sprintf("; %s: %s", f.Location, f.Message)
	}
	if p.Remedy != "" {
		s += ": " + p.Remedy
	}
	return s
}

// GetStatus is the HTTP status to answer with.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType turns the negotiated type into that of a problem document.
func (p *Problem) ContentType(negotiated string) string {
	if negotiated == "application/json" {
		return "application/problem+json"
	}
	return negotiated
}

// CodeOf is the code of the first Problem in err's chain; Internal for any other
// error, and empty for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if p, ok := errors.AsType[*Problem](err); ok {
		return p.Code
	}
	return Internal
}
