package wire

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestBannerGolden(t *testing.T) {
	const golden = "UNDERSTUDY 1 agent 0.4.1\n"
	b := Banner{Version: 1, Role: RoleAgent, Build: "0.4.1"}
	if b.String() != golden {
		t.Errorf("banner %q, was %q", b.String(), golden)
	}
	if got, err := ParseBanner(golden); err != nil || got != b {
		t.Errorf("%+v, %v", got, err)
	}
	if s := (Banner{Version: 1, Role: RoleRelay, Build: "a b\n" + strings.Repeat("x", 200)}).String(); len(s) > maxBanner || strings.Count(s, "\n") != 1 || strings.Count(s, " ") != 3 {
		t.Errorf("a build's name breaks the line: %q", s)
	}
}

// TestEachVerdictOnABanner: older, newer, not ours and wrong peer are four different
// things to do for the operator.
func TestEachVerdictOnABanner(t *testing.T) {
	verdicts := []error{ErrNotOurs, ErrOlder, ErrNewer, ErrWrongPeer}
	for line, want := range map[string]error{
		"UNDERSTUDY 1 relay 1.0\n":                   nil,
		"UNDERSTUDY 2 relay 9.9\n":                   ErrNewer,
		"UNDERSTUDY 7 something else entirely new\n": ErrNewer,
		"UNDERSTUDY 7\n":                             ErrNewer,
		"UNDERSTUDY 1 agent 1.0\n":                   ErrWrongPeer,
		"UNDERSTUDY 0 relay 1.0\n":                   ErrNotOurs,
		"UNDERSTUDY x relay 1.0\n":                   ErrNotOurs,
		"UNDERSTUDY\n":                               ErrNotOurs,
		"SSH-2.0-OpenSSH_9.2\r\n":                    ErrNotOurs,
		"HTTP/1.1 400 Bad Request\r\n":               ErrNotOurs,
		strings.Repeat("U", 300):                     ErrNotOurs,
		bannerWord + " " + strings.Repeat("1", 300):  ErrNotOurs,
	} {
		b, err := readBanner(strings.NewReader(line))
		if err == nil {
			err = b.judge(RoleRelay)
		}
		for _, v := range verdicts {
			if errors.Is(err, v) != (v == want) {
				t.Errorf("%q: %v, want %v", line[:min(len(line), 40)], err, want)
			}
		}
	}
	if err := (Banner{Version: OldestVersion - 1, Role: RoleRelay}).judge(RoleRelay); !errors.Is(err, ErrOlder) || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("older: %v", err)
	}
	if _, err := readBanner(strings.NewReader("UNDERST")); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		t.Errorf("cut short: %v", err)
	}
}

// TestABannerTakesNoMoreThanItsLine: what follows belongs to the messages.
func TestABannerTakesNoMoreThanItsLine(t *testing.T) {
	r := strings.NewReader("UNDERSTUDY 1 relay 1.0\nrest")
	if _, err := readBanner(r); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "rest" {
		t.Errorf("left is %q", rest)
	}
}
