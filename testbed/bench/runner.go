package main

import (
	"context"
	"fmt"
)

// sample is what one turn of an arm measured, by figure.
type sample map[string]float64

// arm is one of several ways to do the same thing.
type arm struct {
	name string
	run  func(ctx context.Context, round int) (sample, error)
}

// series are the samples of each arm, in the order of the rounds.
type series map[string][]sample

// interleave lets every arm have its turn in each round.
func interleave(ctx context.Context, rounds int, arms ...arm) (series, error) {
	out := series{}
	for round := range rounds {
		if err := out.turn(ctx, round, arms...); err != nil {
			return out, err
		}
	}
	return out, nil
}

// turn is one round. The order rotates from round to round, so that no arm always
// follows the same one.
func (s series) turn(ctx context.Context, round int, arms ...arm) error {
	for i := range arms {
		a := arms[(i+round)%len(arms)]
		if err := ctx.Err(); err != nil {
			return err
		}
		got, err := a.run(ctx, round)
		if err != nil {
			return fmt.Errorf("%s, round %d: %w", a.name, round+1, err)
		}
		s[a.name] = append(s[a.name], got)
	}
	return nil
}

// of are one arm's values of a figure, by round.
func (s series) of(arm, figure string) []float64 {
	out := make([]float64, 0, len(s[arm]))
	for _, v := range s[arm] {
		out = append(out, v[figure])
	}
	return out
}
