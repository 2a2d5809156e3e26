package nbd

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzOptions takes any bytes for an option's data. Limit: 16 times the input and 4 KiB.
func FuzzOptions(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x03sda\x00\x01\x00\x03"))
	f.Add([]byte("\x00\x00\x00\x03sda\x00\x00\x00\x01\x00\x00\x00\x0fbase:allocation"))
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzztest.Bounded(t, 16*len(b)+4<<10, func() {
			_, _ = decodeInfo(b)
			_, _ = decodeMeta(b)
		})
		if r, err := decodeInfo(b); err == nil && (len(r.export) > maxName || 6+len(r.export)+2*len(r.wants) != len(b)) {
			t.Fatalf("%+v of %d bytes", r, len(b))
		}
		if r, err := decodeMeta(b); err == nil {
			n := 8 + len(r.export)
			for _, q := range r.queries {
				n += 4 + len(q)
			}
			if n != len(b) || len(r.queries) > maxQueries {
				t.Fatalf("%+v of %d bytes", r, len(b))
			}
		}
	})
}

// FuzzRequest takes any bytes for a request's head. Limit: 1 KiB.
func FuzzRequest(f *testing.F) {
	f.Add(binary.BigEndian.AppendUint32(nil, magicRequest), int64(1<<20))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		var head [requestSize]byte
		copy(head[:], b)
		fuzztest.Bounded(t, 1<<10, func() { _, _ = decodeRequest(&head) })
		r, err := decodeRequest(&head)
		if err != nil || size < 0 {
			return
		}
		if r.check(size, true, true) == nil && r.cmd != cmdFlush &&
			(r.offset > uint64(size) || int64(r.offset)+int64(r.length) > size || int64(r.offset) < 0) {
			t.Fatalf("%+v was taken on a disk of %d bytes", r, size)
		}
	})
}

// FuzzSession lets a client say anything at all. Limit: 256 times what it says and 8
// MiB, the buffers of a session included; the largest request is announced, not sent.
func FuzzSession(f *testing.F) {
	enter := "\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00"
	f.Add([]byte(enter))
	f.Add([]byte(enter + "\x25\x60\x95\x13\x00\x00\x00\x00aaaaaaaa\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10"))
	f.Add([]byte(enter + "\x25\x60\x95\x13\x00\x00\x00\x01aaaaaaaa\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02xx"))
	f.Add([]byte(enter + "\x25\x60\x95\x13\x00\x00\x00\x01aaaaaaaa\x00\x00\x00\x00\x00\x00\x00\x00\x7f\xff\xff\xff"))
	f.Add([]byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x08\x00\x00\x00\x00IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, said []byte) {
		fuzztest.Bounded(t, 256*len(said)+8<<20, func() { anySession(t, said) })
	})
}

// anySession is one client's, from its first byte to its end.
func anySession(t *testing.T, said []byte) {
	srv, err := New([]Export{{Name: "sda", Image: newMemory(1 << 16)}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	theirs, ours := net.Pipe()
	go func() {
		_, _ = ours.Write(said)
		time.Sleep(time.Millisecond)
		ours.Close()
	}()
	go func() { _, _ = io.Copy(io.Discard, ours) }()
	srv.conns.Add(1)
	srv.handle(context.Background(), context.Background(), theirs)
}
