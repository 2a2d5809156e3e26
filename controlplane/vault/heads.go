package vault

import (
	"errors"
	"fmt"

	"github.com/understudy-dr/understudy/pkg/frame"
)

var errHeads = errors.New("vault: malformed index of frames")

// head is what an object's index section holds of one frame: header and extent
// index, and for a mark all of it. The frame's bytes are raw followed by Stored
// bytes of the data section from dataOff on.
type head struct {
	*frame.Frame
	raw     []byte
	dataOff int64
}

// splitFrames cuts frames into the sections of an object: their heads, one behind
// the other, and their payloads.
func splitFrames(frames []*frame.Frame) (index []byte, data [][]byte) {
	for _, f := range frames {
		n := headLen(f.Header)
		index = append(index, f.Bytes()[:n]...)
		if rest := f.Bytes()[n:]; len(rest) > 0 {
			data = append(data, rest)
		}
	}
	return index, data
}

// headLen is how many of a frame's bytes lie in the index section. Marks are read by
// everyone who opens a machine, so they lie there whole.
func headLen(h frame.Header) int {
	if h.Kind == frame.KindMark {
		return h.Size()
	}
	return h.IndexSize()
}

// parseHeads decodes an index section whose object has dataLen bytes of payloads.
// The heads refer to index.
func parseHeads(index []byte, dataLen int64) ([]head, error) {
	var heads []head
	var off int64
	for rest := index; len(rest) > 0; {
		h, err := frame.ParseHeader(rest)
		if err != nil {
			return nil, fmt.Errorf("%w: frame %d: %w", errHeads, len(heads), err)
		}
		n := headLen(h)
		if n > len(rest) {
			return nil, fmt.Errorf("%w: frame %d ends behind the section", errHeads, len(heads))
		}
		parse := frame.ParseIndex
		if h.Kind == frame.KindMark {
			parse = frame.Parse
		}
		f, err := parse(rest[:n])
		if err != nil {
			return nil, fmt.Errorf("%w: frame %d: %w", errHeads, len(heads), err)
		}
		heads = append(heads, head{Frame: f, raw: rest[:n], dataOff: off})
		if h.Kind != frame.KindMark {
			off += int64(h.Stored)
		}
		rest = rest[n:]
	}
	if off != dataLen || len(heads) == 0 {
		return nil, fmt.Errorf("%w: %d frames with %d payload bytes, the object has %d", errHeads, len(heads), off, dataLen)
	}
	return heads, nil
}
