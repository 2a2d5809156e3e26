package main

import (
	"math"
	"time"
)

// better says which direction is good.
type better string

const (
	higher better = "higher"
	lower  better = "lower"
)

// row is one line of the table.
type row struct {
	ID     string   `json:"id"`   // group/case/figure; a newer row replaces the one of the same id
	What   string   `json:"what"` // for people
	Unit   string   `json:"unit"` // "×" for a ratio
	Better better   `json:"better"`
	Value  spread   `json:"value"`
	Noise  *spread  `json:"noise,omitempty"` // the same ratio where nothing differs
	Rounds int      `json:"samples"`
	Ours   string   `json:"ours,omitempty"` // what the ratio is made of
	Theirs string   `json:"theirs,omitempty"`
	Target float64  `json:"target,omitempty"` // 0 for none
	Note   string   `json:"note,omitempty"`   // what happened meanwhile
	Tools  []string `json:"tools,omitempty"`  // versions and command lines that were measured

	Date  time.Time `json:"date"`
	Host  host      `json:"host"`
	Build string    `json:"build"` // of the binaries
	Load  string    `json:"load"`  // load averages when it was written down
	Quick bool      `json:"quick,omitempty"`
}

// met reports whether the target is reached; rows without one are.
func (r row) met() bool {
	switch {
	case r.Target == 0:
		return true
	case math.IsNaN(r.Value.Median):
		return false
	case r.Better == lower:
		return r.Value.Median <= r.Target
	default:
		return r.Value.Median >= r.Target
	}
}
