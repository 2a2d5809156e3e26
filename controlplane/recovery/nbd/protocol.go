package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The protocol as its public description has it (proto.md of the NBD project),
// fixed newstyle, all integers big-endian. This file and option.go are pure: they
// encode and decode, and do no I/O.
//
//	server: "NBDMAGIC" "IHAVEOPT" handshake flags (2)
//	client: client flags (4)
//	client: "IHAVEOPT" option (4) length (4) data …          repeated
//	server: reply magic (8) option (4) type (4) length (4) data …
//	after NBD_OPT_GO or NBD_OPT_EXPORT_NAME:
//	client: request magic (4) flags (2) type (2) cookie (8) offset (8) length (4) data …
//	server: simple:     magic (4) error (4) cookie (8) data …
//	        structured: magic (4) flags (2) type (2) cookie (8) length (4) payload …
const (
	magicServer     = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption     = 0x49484156454f5054 // "IHAVEOPT"
	magicReply      = 0x0003e889045565a9
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef
)

// Handshake flags; the client answers with the same bits.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
	handshakeFlags    = flagFixedNewstyle | flagNoZeroes
)

// Transmission flags.
const (
	flagHasFlags     = 1 << 0
	flagReadOnly     = 1 << 1
	flagFlush        = 1 << 2
	flagFUA          = 1 << 3
	flagTrim         = 1 << 5
	flagWriteZeroes  = 1 << 6
	flagDontFragment = 1 << 7
	flagMultiConn    = 1 << 8
	flagFastZero     = 1 << 11
)

// command is the type of a request.
type command uint16

const (
	cmdRead        command = 0
	cmdWrite       command = 1
	cmdDisconnect  command = 2
	cmdFlush       command = 3
	cmdTrim        command = 4
	cmdWriteZeroes command = 6
	cmdBlockStatus command = 7
)

func (c command) String() string {
	switch c {
	case cmdRead:
		return "read"
	case cmdWrite:
		return "write"
	case cmdDisconnect:
		return "disconnect"
	case cmdFlush:
		return "flush"
	case cmdTrim:
		return "trim"
	case cmdWriteZeroes:
		return "write zeroes"
	case cmdBlockStatus:
		return "block status"
	}
	return fmt.Sprintf("command %d", uint16(c))
}

// Command flags.
const (
	cmdFlagFUA          = 1 << 0
	cmdFlagNoHole       = 1 << 1
	cmdFlagDontFragment = 1 << 2
	cmdFlagReqOne       = 1 << 3
	cmdFlagFastZero     = 1 << 4
)

// flagsOf are the command flags that each command may carry. FUA is allowed
// everywhere: some clients set it on reads.
var flagsOf = map[command]uint16{
	cmdRead:        cmdFlagFUA | cmdFlagDontFragment,
	cmdWrite:       cmdFlagFUA,
	cmdFlush:       cmdFlagFUA,
	cmdTrim:        cmdFlagFUA,
	cmdWriteZeroes: cmdFlagFUA | cmdFlagNoHole | cmdFlagFastZero,
	cmdBlockStatus: cmdFlagFUA | cmdFlagReqOne,
}

// Structured replies.
const (
	chunkDone = 1 << 0 // flag: the last chunk of the reply

	chunkNone        = 0
	chunkOffsetData  = 1
	chunkBlockStatus = 5
	chunkError       = 1<<15 + 1
)

// Block status of base:allocation.
const (
	stateHole = 1 << 0
	stateZero = 1 << 1
)

// errno is an error as it travels to the client.
type errno uint32

const (
	errPerm     errno = 1
	errIO       errno = 5
	errInvalid  errno = 22
	errNoSpace  errno = 28
	errShutdown errno = 108
)

// requestSize is the size of a request without its data, in bytes.
const requestSize = 28

// request is a request as it came, not checked against any export.
type request struct {
	flags  uint16
	cmd    command
	cookie uint64
	offset uint64
	length uint32
}

// errNotRequest says that the client and the server no longer agree on where
// messages begin. Nothing can follow but the end.
var errNotRequest = errors.New("the client sent something that is not a request")

func decodeRequest(b *[requestSize]byte) (request, error) {
	if binary.BigEndian.Uint32(b[0:]) != magicRequest {
		return request{}, errNotRequest
	}
	return request{
		flags:  binary.BigEndian.Uint16(b[4:]),
		cmd:    command(binary.BigEndian.Uint16(b[6:])),
		cookie: binary.BigEndian.Uint64(b[8:]),
		offset: binary.BigEndian.Uint64(b[16:]),
		length: binary.BigEndian.Uint32(b[24:]),
	}, nil
}

// refusal is an error that goes back to the client, with words for a human.
type refusal struct {
	errno errno
	text  string
}

func (r *refusal) Error() string { return r.text }

func refusef(e errno, format string, args ...any) error {
	return &refusal{e, fmt.Sprintf(format, args...)}
}

// check holds a request against the size of the export and what it allows. The
// data of a refused write must still be read.
func (r request) check(size int64, writable, mapped bool) error {
	allowed, known := flagsOf[r.cmd]
	changes := r.cmd == cmdWrite || r.cmd == cmdTrim || r.cmd == cmdWriteZeroes
	switch {
	case !known:
		return refusef(errInvalid, "this server does not know %s", r.cmd)
	case r.flags&^allowed != 0:
		return refusef(errInvalid, "%s with unknown flags %#x", r.cmd, r.flags)
	case changes && !writable:
		return refusef(errPerm, "this disk is served read-only")
	case r.cmd == cmdBlockStatus && !mapped:
		return refusef(errInvalid, "block status was not negotiated")
	case r.cmd == cmdFlush:
		return nil
	case r.offset > uint64(size) || uint64(r.length) > uint64(size)-r.offset:
		if r.cmd == cmdWrite || r.cmd == cmdWriteZeroes {
			return refusef(errNoSpace, "%s of %d bytes at %d: the disk ends at %d", r.cmd, r.length, r.offset, size)
		}
		return refusef(errInvalid, "%s of %d bytes at %d: the disk ends at %d", r.cmd, r.length, r.offset, size)
	case r.cmd == cmdRead && r.length > maxPayload:
		return refusef(errInvalid, "a read of %d bytes: %d are the most", r.length, maxPayload)
	}
	return nil
}

// simpleSize and chunkSize are the sizes of reply headers, in bytes.
const (
	simpleSize = 16
	chunkSize  = 20
)

func putSimple(b []byte, cookie uint64, e errno) {
	binary.BigEndian.PutUint32(b[0:], magicSimple)
	binary.BigEndian.PutUint32(b[4:], uint32(e))
	binary.BigEndian.PutUint64(b[8:], cookie)
}

func putChunk(b []byte, flags, kind uint16, cookie uint64, length uint32) {
	binary.BigEndian.PutUint32(b[0:], magicStructured)
	binary.BigEndian.PutUint16(b[4:], flags)
	binary.BigEndian.PutUint16(b[6:], kind)
	binary.BigEndian.PutUint64(b[8:], cookie)
	binary.BigEndian.PutUint32(b[16:], length)
}
