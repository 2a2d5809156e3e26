package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/hrl"
)

// The lines of Inspect. Each tells by Part what it is of.
type (
	fileLine struct {
		Part       string    `json:"part"` // "file"
		Path       string    `json:"path"`
		Kind       string    `json:"kind"`
		ID         string    `json:"id"`
		Created    time.Time `json:"created"`
		RingBytes  int64     `json:"ringBytes"`
		StateBytes int64     `json:"stateBytes"`
		Align      int64     `json:"align"`
	}
	anchorLine struct {
		Part       string    `json:"part"` // "anchor"
		Slot       int       `json:"slot"`
		Error      string    `json:"error,omitempty"`
		Serial     uint64    `json:"serial,omitempty"`
		Generation uint64    `json:"generation,omitempty"`
		Head       hrl.Pos   `json:"head"`
		Released   block.Seq `json:"released"`
		RingPos    uint64    `json:"ringPos"`
		BootID     string    `json:"bootID,omitempty"`
		Closed     int64     `json:"closed,omitempty"` // of the frame that ends at released, unix ns
	}
	stateLine struct {
		Part       string          `json:"part"` // "state"
		Slot       int             `json:"slot"`
		Error      string          `json:"error,omitempty"`
		Serial     uint64          `json:"serial,omitempty"`
		Generation uint64          `json:"generation,omitempty"`
		State      json.RawMessage `json:"state,omitempty"`
	}
	entryLine struct {
		Part       string      `json:"part"` // "entry"
		Pos        hrl.Pos     `json:"pos"`
		Generation uint64      `json:"generation"`
		First      block.Seq   `json:"first"`
		Last       block.Seq   `json:"last"`
		RingPos    uint64      `json:"ringPos"`
		Bytes      int         `json:"bytes"`
		Kind       string      `json:"kind,omitempty"`
		Codec      string      `json:"codec,omitempty"`
		Epoch      block.Epoch `json:"epoch,omitempty"`
		Opened     *time.Time  `json:"opened,omitempty"`
		Closed     *time.Time  `json:"closed,omitempty"`
		Disks      int         `json:"disks,omitempty"`
		Extents    int         `json:"extents,omitempty"`
		Mark       *frame.Mark `json:"mark,omitempty"`
		Error      string      `json:"error,omitempty"` // the entry is whole, the frame in it is not
	}
	endLine struct {
		Part    string  `json:"part"` // "end"
		Pos     hrl.Pos `json:"pos"`
		Verdict string  `json:"verdict"`
		Torn    bool    `json:"torn"`
		Entries int     `json:"entries"`
		Bytes   int64   `json:"bytes"` // of all frames
	}
)

// Inspect writes what a journal file holds as JSON lines: the file, its anchors and
// states, every entry from the newest anchor on, and where and why the chain ends. It
// changes nothing and may be used while an agent is at work; the anchor may then be
// ahead of what it sees. A file that holds no journal is an error.
func Inspect(w io.Writer, path string) error {
	im, err := hrl.OpenImage(path)
	if err != nil {
		return err
	}
	defer im.Close()
	out := json.NewEncoder(w)
	err = out.Encode(fileLine{
		Part: "file", Path: path, Kind: im.Kind.String(), ID: fmt.Sprintf("%x", im.ID), Created: im.Created,
		RingBytes: im.RingBytes, StateBytes: im.StateBytes, Align: im.Align,
	})
	if err != nil {
		return err
	}
	return errors.Join(inspectSlots(out, im), inspectRing(out, im))
}

func inspectSlots(out *json.Encoder, im *hrl.Image) error {
	for slot := range 2 {
		a, err := im.Anchor(slot)
		line := anchorLine{
			Part: "anchor", Slot: slot, Error: message(err), Serial: a.Serial, Generation: a.Generation,
			Head: a.Head, Released: a.Released, RingPos: a.RingPos, Closed: a.Closed,
		}
		if err == nil {
			line.BootID = bootID(a.Boot).String()
		}
		if err := out.Encode(line); err != nil {
			return err
		}
	}
	for slot := range 2 {
		h, content, err := im.State(slot)
		line := stateLine{Part: "state", Slot: slot, Error: message(err), Serial: h.Serial, Generation: h.Generation}
		if json.Valid(content) {
			line.State = content
		}
		if err := out.Encode(line); err != nil {
			return err
		}
	}
	return nil
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func inspectRing(out *json.Encoder, im *hrl.Image) error {
	a, err := im.NewestAnchor()
	if err != nil {
		return err
	}
	end, sum := endLine{Part: "end"}, error(nil)
	e := im.Walk(a, func(e hrl.Entry, raw []byte) bool {
		end.Entries++
		end.Bytes += int64(e.Len)
		sum = out.Encode(describe(e, raw))
		return sum == nil
	})
	if sum != nil {
		return sum
	}
	end.Pos, end.Verdict, end.Torn = e.Pos, message(e.Verdict), e.Torn()
	return out.Encode(end)
}

// describe tells what an entry holds.
func describe(e hrl.Entry, raw []byte) entryLine {
	line := entryLine{
		Part: "entry", Pos: e.Pos, Generation: e.Generation, First: e.First, Last: e.Last,
		RingPos: e.RingPos, Bytes: e.Len,
	}
	f, err := frame.Parse(raw)
	if err != nil {
		line.Error = err.Error()
		return line
	}
	line.Kind, line.Codec, line.Epoch = f.Kind.String(), f.Codec.String(), f.Epoch
	line.Opened, line.Closed = &f.Opened, &f.Closed
	line.Disks, line.Extents = f.Disks, f.Extents
	if f.Kind == frame.KindMark {
		m, err := f.Mark()
		line.Mark, line.Error = &m, message(err)
	}
	return line
}
