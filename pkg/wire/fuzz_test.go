package wire

import (
	"bytes"
	"crypto/x509"
	"errors"
	"math/big"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzBanner takes any line for a banner. Limit: 8 KiB, whatever comes.
func FuzzBanner(f *testing.F) {
	for _, s := range []string{"UNDERSTUDY 1 relay 1.0\n", "UNDERSTUDY 99999999999999999999 a b\n", "GET / HTTP/1.1\r\n", "", "UNDERSTUDY 1 relay " + strings.Repeat("x", 300) + "\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fuzztest.Bounded(t, 8<<10, func() { _, _ = readBanner(strings.NewReader(s)) })
		b, err := readBanner(strings.NewReader(s))
		if err == nil && b.judge(RoleRelay) == nil {
			if again, err := ParseBanner(b.String()); err != nil || again.Version != b.Version || again.Role != b.Role {
				t.Errorf("%+v came back as %+v, %v", b, again, err)
			}
		}
	})
}

// FuzzRead lets a peer say anything. Limit: 512 times what came (two letters can be an
// element of a list in JSON) and two steps of what has not come yet, per message. What
// is read is one of the protocol's messages, and comes back from its own bytes.
func FuzzRead(f *testing.F) {
	for _, m := range examples(f) {
		f.Add(encode(f, m))
	}
	f.Add(header(TypeFrame, MaxFrame))
	f.Add(header(TypeHello, MaxControl))
	f.Add(append(header(TypeHashReply, maxReply), make([]byte, hashReplyHead)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzztest.Bounded(t, 512*len(b)+2*fillStep, func() {
			c := &Conn{s: &memory{Reader: bytes.NewReader(b)}}
			for err := error(nil); err == nil; {
				_, err = c.Read(nil)
			}
		})
		c := &Conn{s: &memory{Reader: bytes.NewReader(b)}}
		for {
			m, err := c.Read(nil)
			if err != nil {
				return
			}
			again, err := (&Conn{s: &memory{Reader: bytes.NewReader(encode(t, m))}}).Read(nil)
			if err != nil || !reflect.DeepEqual(again, m) {
				t.Fatalf("%+v came back as %+v, %v", m, again, err)
			}
			if f, ok := m.(Frame); ok {
				_, _ = frame.Parse(f.Raw)
			}
		}
	})
}

// FuzzIdentity reads a machine out of a certificate's names. Limit: 16 times their
// length and 4 KiB. Who is taken for a machine names itself the same way.
func FuzzIdentity(f *testing.F) {
	for _, s := range []string{
		"understudy://relay", "understudy://relay/x", "understudy://machine/000102030405060708090a0b0c0d0e0f", "understudy://machine//000102030405060708090a0b0c0d0e0f",
		"understudy://machine/", "understudy://", "https://machine/000102030405060708090a0b0c0d0e0f", "understudy://machine:9/0001?x#y", "UNDERSTUDY://machine/000102030405060708090A0B0C0D0E0F",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		cert := &x509.Certificate{SerialNumber: big.NewInt(1), URIs: []*url.URL{u}}
		fuzztest.Bounded(t, 16*len(s)+4<<10, func() { _, _ = Identify(cert) })
		p, err := Identify(cert)
		switch {
		case err != nil && !errors.Is(err, errNotAnIdentity):
			t.Fatalf("an error that is no verdict: %v", err)
		case err == nil && p.Role == RoleAgent && p.Machine.IsZero(), err == nil && p.Role != RoleAgent && !p.Machine.IsZero():
			t.Fatalf("%q makes %+v", s, p)
		}
		cert.URIs = append(cert.URIs, RelayURI())
		if q, err := Identify(cert); err == nil && p.Role != "" {
			t.Fatalf("two identities make one: %+v", q)
		}
	})
}
