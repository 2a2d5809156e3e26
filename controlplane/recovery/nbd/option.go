package nbd

import (
	"encoding/binary"
	"errors"
	"strings"
	"unicode/utf8"
)

// option is what a client asks for before it transmits.
type option uint32

const (
	optExportName      option = 1
	optAbort           option = 2
	optList            option = 3
	optInfo            option = 6
	optGo              option = 7
	optStructuredReply option = 8
	optListMeta        option = 9
	optSetMeta         option = 10
)

// repType is the type of a reply to an option.
type repType uint32

const (
	repAck    repType = 1
	repServer repType = 2
	repInfo   repType = 3
	repMeta   repType = 4

	repErrUnsupported repType = 1<<31 + 1
	repErrInvalid     repType = 1<<31 + 3
	repErrUnknown     repType = 1<<31 + 6
	repErrTooBig      repType = 1<<31 + 9
)

// Information about an export.
const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// The one metadata context there is, and its id.
const (
	allocationContext = "base:allocation"
	allocationID      = 1
)

// Limits of the handshake.
const (
	maxName       = 4096     // of a name, bytes, as the protocol has it
	maxOptionData = 64 << 10 // of an option that is understood, bytes
	maxSkipped    = 1 << 20  // of an option that is skipped, bytes
	maxOptions    = 256      // per connection
	maxQueries    = 64
)

// errMalformed is an option whose data do not fit its form.
var errMalformed = errors.New("the option's data are malformed")

// fields takes an option's data apart. After the first shortage everything is zero
// and bad is true.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) take(n uint32) []byte {
	if f.bad || uint64(n) > uint64(len(f.b)) {
		f.bad, f.b = true, nil
		return nil
	}
	p := f.b[:n]
	f.b = f.b[n:]
	return p
}

func (f *fields) u16() uint16 {
	if p := f.take(2); p != nil {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

func (f *fields) u32() uint32 {
	if p := f.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

// text is a length and a string.
func (f *fields) text() string {
	s := string(f.take(f.u32()))
	if !validText(s) {
		f.bad = true
	}
	return s
}

func validText(s string) bool {
	return len(s) <= maxName && utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// infoRequest is the data of NBD_OPT_INFO and NBD_OPT_GO.
type infoRequest struct {
	export string
	wants  []uint16
}

func decodeInfo(b []byte) (infoRequest, error) {
	f := fields{b: b}
	r := infoRequest{export: f.text()}
	n := f.u16()
	if f.bad || int(n)*2 != len(f.b) {
		return infoRequest{}, errMalformed
	}
	for range n {
		r.wants = append(r.wants, f.u16())
	}
	return r, nil
}

// metaRequest is the data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
type metaRequest struct {
	export  string
	queries []string
}

// errTooMany is a request for more contexts than the server cares to compare.
var errTooMany = errors.New("too many metadata contexts are asked for")

func decodeMeta(b []byte) (metaRequest, error) {
	f := fields{b: b}
	r := metaRequest{export: f.text()}
	n := f.u32()
	if n > maxQueries {
		return metaRequest{}, errTooMany
	}
	for range n {
		r.queries = append(r.queries, f.text())
	}
	if f.bad || len(f.b) > 0 {
		return metaRequest{}, errMalformed
	}
	return r, nil
}

// matches reports whether the queries name base:allocation. In a listing, no query
// at all and the bare name space do so too.
func (r metaRequest) matches(listing bool) bool {
	if listing && len(r.queries) == 0 {
		return true
	}
	for _, q := range r.queries {
		if q == allocationContext || listing && q == "base:" {
			return true
		}
	}
	return false
}
