package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// verified is an object whose every byte has been proven, or why it could not be.
type verified struct {
	kind  sealed.Kind
	heads []frame.Header
	first place // of the extents of a run's object
	last  place
	err   error
}

// verify reads a whole object and proves all of it.
func (f *fetcher) verify(ctx context.Context, info objstore.Info) (*verified, error) {
	b, err := f.v.store.Get(ctx, info.Key, 0, -1)
	if err != nil {
		return nil, err
	}
	h, err := sealed.ParseHeader(b)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) != h.Size() {
		return nil, fmt.Errorf("%w: %d bytes, its header says %d", sealed.ErrTruncated, len(b), h.Size())
	}
	if want := kindOf(f.id, info.Key); want != h.Kind {
		return nil, fmt.Errorf("%w: holds a %s, its name says %s", sealed.ErrMalformed, h.Kind, want)
	}
	opener := sealed.NewOpener(f.key, info.Key, h)
	var sections [3][]byte
	for s := range sections {
		if sections[s], err = opener.OpenSection(sealed.Section(s), b); err != nil {
			return nil, err
		}
	}
	o := &verified{kind: h.Kind}
	if h.Kind == sealed.KindDocument {
		if !json.Valid(sections[sealed.Index]) {
			return nil, errors.New("vault: a document that is no JSON")
		}
		return o, nil
	}
	return o, o.verifyFrames(sections[sealed.Index], sections[sealed.Data], sections[sealed.Hashes])
}

// kindOf is the kind of object that a name promises.
func kindOf(id block.MachineID, name string) sealed.Kind {
	kind, _, _ := strings.Cut(strings.TrimPrefix(name, machinePrefix(id)), "/")
	switch kind {
	case "log":
		return sealed.KindLog
	case "base":
		return sealed.KindBase
	case "run":
		return sealed.KindRun
	}
	return sealed.KindDocument
}

// verifyFrames puts every frame together again, checks and decompresses it.
func (o *verified) verifyFrames(index, data, hashes []byte) error {
	heads, err := parseHeads(index, int64(len(data)))
	if err != nil {
		return err
	}
	w := newHashWriter()
	var raw, payload []byte
	for i, h := range heads {
		raw = append(raw[:0], h.raw...)
		if h.Kind != frame.KindMark {
			raw = append(raw, data[h.dataOff:h.dataOff+int64(h.Stored)]...)
		}
		f, err := frame.Parse(raw)
		if err != nil {
			return fmt.Errorf("frame %d: %w", i, err)
		}
		if payload, err = f.Payload(payload); err != nil {
			return fmt.Errorf("frame %d: %w", i, err)
		}
		if o.kind == sealed.KindRun {
			if err := o.verifyRun(f, payload, &w); err != nil {
				return fmt.Errorf("frame %d: %w", i, err)
			}
		}
		o.heads = append(o.heads, h.Header)
		if f.Codec == frame.CodecRaw {
			payload = nil // it is part of raw
		}
	}
	if o.kind == sealed.KindRun && !bytes.Equal(w.out, hashes) {
		return errors.New("vault: the range hashes are not those of the data; a resync would trust them")
	}
	return nil
}

// verifyRun proves that extents follow each other, and hashes their data.
func (o *verified) verifyRun(f *frame.Frame, payload []byte, w *hashWriter) error {
	for e := range f.All() {
		from, to := place{e.Disk, e.Off}, place{e.Disk, e.End()}
		if o.first == (place{}) {
			o.first = from
		} else if from.compare(o.last) < 0 {
			return fmt.Errorf("vault: extent %v of disk %s is out of order", e.Extent, e.Disk)
		}
		o.last = to
		if e.Op == frame.OpWrite {
			w.add(e.Disk, e.Off, payload[e.DataOff:e.DataOff+e.Len])
		}
	}
	return nil
}
