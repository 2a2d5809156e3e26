package main

import (
	"regexp"
	"strings"
)

// note is what people have to say about rows. notes.md holds them: a heading of the
// second level is a pattern of row ids (or of "proof/WHAT", or "missed/ID" for a target
// that was not reached), the text below it goes to the page.
type note struct {
	on   *regexp.Regexp
	text string
}

func parseNotes(text string) (notes []note) {
	for _, part := range strings.Split("\n"+text, "\n## ")[1:] {
		pattern, body, _ := strings.Cut(part, "\n")
		on, err := regexp.Compile("^(?:" + strings.TrimSpace(pattern) + ")$")
		if err == nil {
			notes = append(notes, note{on, strings.Join(strings.Fields(body), " ")})
		}
	}
	return notes
}

// noteOn is the first note on this; "" if there is none.
func (p *page) noteOn(id string) string {
	for _, n := range p.notes {
		if n.on.MatchString(id) {
			return n.text
		}
	}
	return ""
}
