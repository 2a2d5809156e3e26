package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
)

// printRow is one line as soon as it is known.
func printRow(w io.Writer, r row) {
	fmt.Fprintf(w, "  %-44s %s\n", r.ID, strings.Join(cells(r)[1:], "  "))
}

func printTable(w io.Writer, rows []row) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "figure\tmedian\tbetter\tsamples\tnoise\ttarget\tours\ttheirs\t")
	for _, r := range rows {
		fmt.Fprintln(t, r.ID+"\t"+strings.Join(cells(r)[1:], "\t")+"\t")
	}
	_ = t.Flush() // a terminal that is gone reads no table
}

// cells are a row in words: what, median with spread, direction, samples, noise, target,
// ours, theirs.
func cells(r row) []string {
	noise := ""
	if r.Noise != nil {
		noise = spreadText(*r.Noise, "×")
	}
	return []string{r.What, spreadText(r.Value, r.Unit), string(r.Better), fmt.Sprint(r.Rounds), noise, targetText(r), r.Ours, r.Theirs}
}

func targetText(r row) string {
	if r.Target == 0 {
		return ""
	}
	sign := "≥"
	if r.Better == lower {
		sign = "≤"
	}
	verdict := "no"
	if r.met() {
		verdict = "yes"
	}
	return fmt.Sprintf("%s %s: %s", sign, number(r.Target), verdict)
}

// spreadText is "0.91× (0.88-0.93)".
func spreadText(s spread, unit string) string {
	sep := " "
	if unit == "×" {
		sep = ""
	}
	text := number(s.Median) + sep + unit
	if s.Min != s.Max {
		text += fmt.Sprintf(" (%s-%s)", number(s.Min), number(s.Max))
	}
	return text
}

// number has three significant digits, or the whole part where that is longer.
func number(v float64) string {
	a := math.Abs(v)
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "none"
	case a >= 100:
		return thousands(fmt.Sprintf("%.0f", v))
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.1 || a == 0:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}

func thousands(s string) string {
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
