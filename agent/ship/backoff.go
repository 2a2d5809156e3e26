package ship

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/understudy-dr/understudy/pkg/wire"
)

// Backoff is the pause between sessions: doubling from Min to Max, half of it random,
// so that the machines of a relay that comes back do not all come at once.
type Backoff struct {
	Min, Max time.Duration
	// Rand is in [0, 1); for tests.
	Rand func() float64
}

// Defaults of Backoff.
const (
	DefaultMinBackoff = 250 * time.Millisecond
	DefaultMaxBackoff = 15 * time.Second
)

func (b *Backoff) fill() {
	if b.Min == 0 {
		b.Min = DefaultMinBackoff
	}
	if b.Max == 0 {
		b.Max = DefaultMaxBackoff
	}
	if b.Rand == nil {
		b.Rand = rand.Float64
	}
}

// settled are refusals that only a person or much time resolves: asking often is noise.
var settled = []wire.Code{wire.CodeUnauthorised, wire.CodeIdentityInUse, wire.CodeWrongMachine, wire.CodeVersion}

// wait is the pause before attempt+1, after err.
func (b Backoff) wait(attempt int, err error) time.Duration {
	d := min(b.Max, b.Min<<min(attempt, 20))
	for _, code := range settled {
		if errors.Is(err, &wire.Error{Code: code}) {
			d = b.Max
		}
	}
	return d/2 + time.Duration(b.Rand()*float64(d/2))
}
