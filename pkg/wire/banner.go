package wire

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// bannerWord begins every banner, so that a person with a TLS client sees what this
// port is.
const bannerWord = "UNDERSTUDY"

// The verdicts on a peer's banner.
var (
	ErrNotOurs   = errors.New("wire: the peer does not speak Understudy's protocol")
	ErrOlder     = errors.New("wire: the peer speaks an older version of the protocol")
	ErrNewer     = errors.New("wire: the peer speaks a newer version of the protocol")
	ErrWrongPeer = errors.New("wire: the peer is not of the kind expected here")
)

// Banner is the plain line each side says first.
type Banner struct {
	Version int  // of the protocol
	Role    Role // of the speaker
	Build   string
}

func (b Banner) String() string {
	return fmt.Sprintf("%s %d %s %s\n", bannerWord, b.Version, b.Role, printable(b.Build))
}

// printable keeps a build's name within one short line.
func printable(build string) string {
	clean := strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, build)
	if clean == "" {
		return "unknown"
	}
	return clean[:min(len(clean), 64)]
}

// ParseBanner reads one banner line, with its newline.
func ParseBanner(line string) (Banner, error) {
	words := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	if len(words) < 2 || words[0] != bannerWord {
		return Banner{}, fmt.Errorf("%w: it said %q", ErrNotOurs, line[:min(len(line), 40)])
	}
	v, err := strconv.Atoi(words[1])
	if err != nil || v < 1 {
		return Banner{}, fmt.Errorf("%w: it said version %q", ErrNotOurs, words[1])
	}
	b := Banner{Version: v}
	// Only the version's place is fixed for ever: what follows it may change with it.
	if len(words) >= 4 {
		b.Role, b.Build = Role(words[2]), words[3]
	}
	return b, nil
}

// readBanner reads up to the newline, byte by byte so as to take nothing of what
// follows; it happens once a channel.
func readBanner(r io.Reader) (Banner, error) {
	line := make([]byte, 0, maxBanner)
	for len(line) < maxBanner {
		line = line[:len(line)+1]
		if _, err := io.ReadFull(r, line[len(line)-1:]); err != nil {
			return Banner{}, fmt.Errorf("wire: reading the peer's banner: %w", err)
		}
		if len(line) == len(bannerWord) && string(line) != bannerWord {
			break
		}
		if line[len(line)-1] == '\n' {
			break
		}
	}
	return ParseBanner(string(line))
}

// judge compares a peer's banner with what this build speaks and expects.
func (b Banner) judge(want Role) error {
	switch {
	case b.Version < OldestVersion:
		return fmt.Errorf("%w: %s %s speaks %d, this build %d to %d: upgrade it", ErrOlder, b.Role, b.Build, b.Version, OldestVersion, Version)
	case b.Version > Version:
		return fmt.Errorf("%w: %s %s speaks %d, this build %d to %d: upgrade this side", ErrNewer, b.Role, b.Build, b.Version, OldestVersion, Version)
	case b.Role != want:
		return fmt.Errorf("%w: want %s, it says it is %q: check the address", ErrWrongPeer, want, b.Role)
	}
	return nil
}
