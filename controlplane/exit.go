package main

import (
	"context"
	"errors"
	"strings"

	"github.com/understudy-dr/understudy/pkg/problem"
)

// The exit codes. They are part of the interface: scripts depend on them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitDenied      = 5
	exitUnreachable = 6
	exitJobFailed   = 7
	exitDamaged     = 8
	exitDifferent   = 9
	exitNotProved   = 10
	exitInDoubt     = 11
	exitUnfit       = 12
	exitPushFailed  = 13
	exitInterrupted = 130
)

const exitCodesHelp = `Exit codes:
    0  done
    1  failed, for a reason that none of the others names
    2  the command line or the request makes no sense
    3  there is no such machine, disk, point, job, policy or token
    4  it cannot be done as things are now (protected already, ambiguous name, ...)
    5  not allowed: no token, a wrong one, or a certificate that is not valid
    6  the control plane, or a part of it, cannot be reached
    7  a job began and failed; understudy job show tells why
    8  the vault is damaged
    9  verify found a difference; the ranges are resynced
   10  verify could not prove that disks and replica are equal
   11  the point is in doubt: it may show other bytes than the disks had (--in-doubt)
   12  push: a machine is not fit, and nothing was changed there; all others are done
   13  push: it failed at a machine, which says why
  130  interrupted`

var exitByCode = map[problem.Code]int{
	problem.Invalid:            exitUsage,
	problem.TooLarge:           exitUsage,
	problem.VersionUnknown:     exitUsage,
	problem.NotFound:           exitNotFound,
	problem.MachineUnknown:     exitNotFound,
	problem.DiskUnknown:        exitNotFound,
	problem.PointUnknown:       exitNotFound,
	problem.Ambiguous:          exitConflict,
	problem.Conflict:           exitConflict,
	problem.IdentityConflict:   exitConflict,
	problem.DiskGone:           exitConflict,
	problem.DiskProtected:      exitConflict,
	problem.DiskUnprotected:    exitConflict,
	problem.PointInDoubt:       exitInDoubt,
	problem.NoPoint:            exitConflict,
	problem.NotUp:              exitConflict,
	problem.Exists:             exitConflict,
	problem.Unauthenticated:    exitDenied,
	problem.Forbidden:          exitDenied,
	problem.TokenWrong:         exitDenied,
	problem.TokenExpired:       exitDenied,
	problem.TokenUsed:          exitDenied,
	problem.TokenRevoked:       exitDenied,
	problem.CertificateExpired: exitDenied,
	problem.CertificateForeign: exitDenied,
	problem.CertificateRevoked: exitDenied,
	problem.ClockSkew:          exitDenied,
	problem.Damaged:            exitDamaged,
	problem.Unavailable:        exitUnreachable,
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

// exitError is a failure that no problem code names and that has an exit code of its own.
type exitError struct {
	error
	code int
}

func (e exitError) Unwrap() error { return e.error }

// exitCode is the one place where errors become exit codes.
func exitCode(ctx context.Context, err error) int {
	if err == nil {
		return exitOK
	}
	if e, ok := errors.AsType[exitError](err); ok {
		return e.code
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	if _, ok := errors.AsType[usageError](err); ok || isCobraUsage(err) {
		return exitUsage
	}
	if code, ok := exitByCode[problem.CodeOf(err)]; ok {
		return code
	}
	return exitFailed
}

// isCobraUsage recognises what cobra has no type for.
func isCobraUsage(err error) bool {
	return strings.HasPrefix(err.Error(), "unknown command") || strings.HasPrefix(err.Error(), "required flag(s)")
}

// explain is what the operator reads: what happened, and what to do.
func explain(err error) string {
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok {
		return "understudy: " + err.Error() + "\n"
	}
	text := "understudy: " + p.Detail + "\n"
	for _, f := range p.Fields {
		text += "  " + strings.TrimPrefix(f.Location+": "+f.Message, ": ") + "\n"
	}
	if p.Remedy != "" {
		text += "  what to do: " + p.Remedy + "\n"
	}
	return text
}
