package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// session is what a client has negotiated.
type session struct {
	export     *Export
	structured bool
	mapped     *Export // for which base:allocation was selected last
}

// errGone is a client that ended the handshake as it may.
var errGone = errors.New("the client went away")

// negotiate goes through the handshake. On success the session has an export.
func (c *conn) negotiate() (session, error) {
	var s session
	var hello [18]byte
	binary.BigEndian.PutUint64(hello[0:], magicServer)
	binary.BigEndian.PutUint64(hello[8:], magicOption)
	binary.BigEndian.PutUint16(hello[16:], handshakeFlags)
	if _, err := c.nc.Write(hello[:]); err != nil {
		return s, err
	}
	var answer [4]byte
	if _, err := io.ReadFull(c.in, answer[:]); err != nil {
		return s, err
	}
	flags := binary.BigEndian.Uint32(answer[:])
	if flags&^handshakeFlags != 0 {
		return s, fmt.Errorf("unknown client flags %#x", flags)
	}
	for range maxOptions {
		opt, data, err := c.readOption()
		if err != nil {
			return s, err
		}
		if opt == optExportName {
			return s, c.exportName(&s, data, flags&flagNoZeroes != 0)
		}
		done, err := c.answer(&s, opt, data)
		if done || err != nil {
			return s, err
		}
	}
	return s, fmt.Errorf("more than %d options", maxOptions)
}

// readOption reads one option. Data longer than any option that is understood are
// skipped and come back as nil; beyond maxSkipped the client is given up.
func (c *conn) readOption() (option, []byte, error) {
	var head [16]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return 0, nil, err
	}
	if binary.BigEndian.Uint64(head[0:]) != magicOption {
		return 0, nil, errors.New("the client sent something that is not an option")
	}
	opt, n := option(binary.BigEndian.Uint32(head[8:])), binary.BigEndian.Uint32(head[12:])
	if n > maxSkipped {
		return 0, nil, fmt.Errorf("an option with %d bytes of data", n)
	}
	if n > maxOptionData {
		_, err := io.CopyN(io.Discard, c.in, int64(n))
		return opt, nil, err
	}
	data := make([]byte, n)
	_, err := io.ReadFull(c.in, data)
	return opt, data, err
}

// exportName ends the handshake the old way, which knows no error but hanging up.
func (c *conn) exportName(s *session, data []byte, noZeroes bool) error {
	e := c.srv.find(string(data))
	if e == nil || data == nil {
		return fmt.Errorf("there is no export %q", data)
	}
	s.export = e
	b := binary.BigEndian.AppendUint64(nil, uint64(e.Image.Size()))
	b = binary.BigEndian.AppendUint16(b, e.flags(s.structured))
	if !noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	_, err := c.nc.Write(b)
	return err
}

// answer replies to one option. It reports true when transmission begins.
func (c *conn) answer(s *session, opt option, data []byte) (done bool, err error) {
	if data == nil {
		return false, c.rep(opt, repErrTooBig, "the option is too long")
	}
	switch opt {
	case optAbort:
		_ = c.rep(opt, repAck, "") // the client need not wait for it
		return true, errGone
	case optList:
		return false, c.list(data)
	case optInfo, optGo:
		return c.info(s, opt, data)
	case optStructuredReply:
		if len(data) > 0 {
			return false, c.rep(opt, repErrInvalid, "this option has no data")
		}
		s.structured = true
		return false, c.rep(opt, repAck, "")
	case optListMeta, optSetMeta:
		return false, c.meta(s, opt, data)
	}
	return false, c.rep(opt, repErrUnsupported, "this server does not know the option")
}

// rep sends one reply to an option.
func (c *conn) rep(opt option, kind repType, payload string) error {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 20+len(payload)), magicReply)
	b = binary.BigEndian.AppendUint32(b, uint32(opt))
	b = binary.BigEndian.AppendUint32(b, uint32(kind))
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	_, err := c.nc.Write(append(b, payload...))
	return err
}

func (c *conn) list(data []byte) error {
	if len(data) > 0 {
		return c.rep(optList, repErrInvalid, "this option has no data")
	}
	for _, e := range c.srv.exports {
		b := binary.BigEndian.AppendUint32(nil, uint32(len(e.Name)))
		if err := c.rep(optList, repServer, string(b)+e.Name+e.Description); err != nil {
			return err
		}
	}
	return c.rep(optList, repAck, "")
}

func (c *conn) info(s *session, opt option, data []byte) (done bool, err error) {
	r, err := decodeInfo(data)
	if err != nil {
		return false, c.rep(opt, repErrInvalid, err.Error())
	}
	e := c.srv.find(r.export)
	if e == nil {
		return false, c.rep(opt, repErrUnknown, "there is no such export")
	}
	for _, p := range e.infos(r.wants, s.structured) {
		if err := c.rep(opt, repInfo, string(p)); err != nil {
			return false, err
		}
	}
	if opt == optGo {
		s.export = e
	}
	return opt == optGo, c.rep(opt, repAck, "")
}

// infos are the payloads that describe an export.
func (e *Export) infos(wants []uint16, structured bool) [][]byte {
	head := func(kind uint16) []byte { return binary.BigEndian.AppendUint16(nil, kind) }
	b := binary.BigEndian.AppendUint64(head(infoExport), uint64(e.Image.Size()))
	all := [][]byte{binary.BigEndian.AppendUint16(b, e.flags(structured))}
	if slices.Contains(wants, infoName) {
		all = append(all, append(head(infoName), e.Name...))
	}
	if slices.Contains(wants, infoDescription) && e.Description != "" {
		all = append(all, append(head(infoDescription), e.Description...))
	}
	if slices.Contains(wants, infoBlockSize) {
		b := binary.BigEndian.AppendUint32(head(infoBlockSize), 1)
		b = binary.BigEndian.AppendUint32(b, preferredBlock)
		all = append(all, binary.BigEndian.AppendUint32(b, maxPayload))
	}
	return all
}

// flags are the transmission flags of an export.
func (e *Export) flags(structured bool) uint16 {
	f := uint16(flagHasFlags | flagFlush | flagFUA | flagMultiConn)
	if e.writer() == nil {
		f |= flagReadOnly
	} else {
		f |= flagTrim | flagWriteZeroes | flagFastZero
	}
	if structured {
		f |= flagDontFragment
	}
	return f
}

func (c *conn) meta(s *session, opt option, data []byte) error {
	if opt == optSetMeta {
		s.mapped = nil // even if what follows fails
	}
	r, err := decodeMeta(data)
	if errors.Is(err, errTooMany) {
		return c.rep(opt, repErrTooBig, err.Error())
	}
	if err != nil || !s.structured {
		return c.rep(opt, repErrInvalid, "malformed, or structured replies were not negotiated first")
	}
	e := c.srv.find(r.export)
	if e == nil {
		return c.rep(opt, repErrUnknown, "there is no such export")
	}
	if r.matches(opt == optListMeta) {
		id := uint32(0) // reserved in a listing
		if opt == optSetMeta {
			id, s.mapped = allocationID, e
		}
		b := binary.BigEndian.AppendUint32(nil, id)
		if err := c.rep(opt, repMeta, string(b)+allocationContext); err != nil {
			return err
		}
	}
	return c.rep(opt, repAck, "")
}
